"""The concatenation form, eq. (5): y_i = sum_j ReLU(a_i + b_j) g_j / C(x), by sorting and prefix sums.

With b sorted downwards, the keys that the ReLU lets through for query i are the first k(i), so that

    y_i = (a_i P_k(i) + Q_k(i)) / C(x),    P, Q = prefix sums of g and of b g in that order.

The gradient has the same form with the roles of a and b exchanged. Both passes cost
O((N + M)(log M + E)) time and O((N + M) E) memory; no N x M tensor exists.

Shapes: B batch, N queries, M keys, E value channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def rectified_non_local(
    a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, *, count: int | Tensor | None = None
) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) g_j / C(x), shape (B, N, E), in the type of g.

    Args:
        a_BN: theta_i . w_f[:D].
        b_BM: phi_j . w_f[D:].
        g_BME: Values; a masked key's is zero, so that it adds nothing wherever it is sorted.
        count: C(x), a number or shape (B, 1, 1); None is M.
    """
    dtype = torch.promote_types(g_BME.dtype, torch.float32)
    values_BME = g_BME.to(dtype) / (b_BM.shape[1] if count is None else count)
    return _rectified_sum(a_BN.to(dtype), b_BM.to(dtype), values_BME).to(g_BME.dtype)


@torch.library.custom_op("nonlocalnn::rectified_sum", mutates_args=())
def _rectified_sum(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) g_j."""
    p_BNE, q_BNE = _prefix_sums_at(a_BN, b_BM, g_BME)
    return torch.addcmul(q_BNE, a_BN.unsqueeze(2), p_BNE)


@_rectified_sum.register_fake
def _(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> Tensor:
    return g_BME.new_empty(a_BN.shape[0], a_BN.shape[1], g_BME.shape[2])


@torch.library.custom_op("nonlocalnn::rectified_sum_backward", mutates_args=())
def _rectified_sum_backward(
    dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and g.

    With the pairs that pass written i ~ j (a_i + b_j > 0): da_i = <dy_i, sum_{j~i} g_j>,
    db_j = <g_j, R_j> and dg_j = b_j R_j + S_j, where R_j = sum_{i~j} dy_i and S_j = sum_{i~j} a_i dy_i.
    """
    p_BNE, _ = _prefix_sums_at(a_BN, b_BM, g_BME)
    r_BME, s_BME = _prefix_sums_at(b_BM, a_BN, dy_BNE)
    da_BN = (dy_BNE * p_BNE).sum(2)
    db_BM = (g_BME * r_BME).sum(2)
    return da_BN, db_BM, torch.addcmul(s_BME, b_BM.unsqueeze(2), r_BME)


@_rectified_sum_backward.register_fake
def _(dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(a_BN), torch.empty_like(b_BM), g_BME.new_empty(g_BME.shape)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy_BNE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a_BN, b_BM, g_BME = ctx.saved_tensors
    return _rectified_sum_backward(dy_BNE, a_BN, b_BM, g_BME)


_rectified_sum.register_autograd(_backward, setup_context=_save_inputs)


def _prefix_sums_at(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_j g_j and sum_j b_j g_j over the j with a_i + b_j > 0, both of shape (B, N, E)."""
    num_values = g_BME.shape[2]
    b_sorted_BM, order_BM = b_BM.sort(dim=1, descending=True, stable=True)
    g_sorted_BME = g_BME.gather(1, order_BM.unsqueeze(2).expand(-1, -1, num_values))
    # A leading row of zeros is the sum over no key at all.
    p_BME = F.pad(g_sorted_BME.cumsum(1), (0, 0, 1, 0))
    q_BME = F.pad((b_sorted_BM.unsqueeze(2) * g_sorted_BME).cumsum(1), (0, 0, 1, 0))
    # The number of keys with b_j > -a_i, which is -b_j < a_i with -b sorted upwards; a + b exactly 0 is out.
    k_BN = torch.searchsorted((-b_sorted_BM).contiguous(), a_BN.contiguous(), right=False)
    rows_BNE = k_BN.unsqueeze(2).expand(-1, -1, num_values)
    return p_BME.gather(1, rows_BNE), q_BME.gather(1, rows_BNE)
