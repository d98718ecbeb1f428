"""The Gaussian and the embedded Gaussian, eq. (2)-(3), without an N x M tensor.

PyTorch's fused attention, where it is fastest. On the CPU, in float32 and float64, its backward pass is not,
and with theta and g of different widths it falls back to the N x M tensor. There the work is done by matrix
products over blocks of queries against all keys, with PyTorch's own softmax on each block while it is in the
cache; the backward pass computes a block's weights again instead of keeping them.

Shapes: B batch, N queries, M keys, D embedding channels, E value channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.functional import symmetric
from nonlocalnn.functional.modes import is_transformed
from nonlocalnn.functional.operators import register

# The queries of a block: enough for matrix products at full speed, and few enough that a block of weights is
# at most 2^23 numbers, 32 MiB in float32.
_BLOCK_QUERIES = 384
_BLOCK_NUMBERS = 2**23
Size = torch.Size
_Block = tuple[int, slice, Tensor, Tensor]


def non_local(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, *, scale: float, key_mask_BM: Tensor | None
) -> Tensor:
    """Return softmax(scale * theta phi^T) g, shape (B, N, E); values of masked keys must be zero.

    Memory: linear in N + M; nothing but the inputs is kept for the backward pass on the CPU, and the
    log-sum-exp of each query elsewhere.
    """
    bias_BM = None if key_mask_BM is None else _bias(key_mask_BM, theta_BND.dtype)
    if is_transformed():
        wide = torch.promote_types(g_BME.dtype, torch.float32)
        theta, phi, g = (part.to(wide) for part in (theta_BND, phi_BMD, g_BME))
        return _plain_softmax_sum(theta, phi, g, bias_BM, scale).to(g_BME.dtype)
    # The backward pass of PyTorch's fused kernel took more than twice as long (N = M = 12,544, D = 256).
    is_ours = theta_BND.device.type == "cpu" and theta_BND.dtype in (torch.float32, torch.float64)
    # Whoever runs an exported program knows PyTorch's operators, not those of this package.
    if is_ours and not torch.compiler.is_exporting():
        # Forward and backward 1.4 times as fast as blocks of queries (N = 12,544, D = 512, E = 256).
        if theta_BND is phi_BMD and bias_BM is None:
            return symmetric.non_local(theta_BND, g_BME, scale=scale)
        y_BNE: Tensor = _blocks(theta_BND, phi_BMD, g_BME, bias_BM, scale)
        return y_BNE
    return _attention(theta_BND, phi_BMD, g_BME, bias_BM, scale)


def _bias(key_mask_BM: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the logits of each key: -inf where it is masked.

    An entry without any key is computed as if it had no mask, so that no NaN arises in either pass; its
    values are zero, and so is their average.
    """
    is_out_BM = ~key_mask_BM & key_mask_BM.any(1, keepdim=True)
    return torch.zeros_like(is_out_BM, dtype=dtype).masked_fill(is_out_BM, -torch.inf)


def _attention(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, bias_BM: Tensor | None, scale: float
) -> Tensor:
    # The kernels want one width for theta, phi and g, on CUDA a multiple of 8, and channels innermost; else
    # PyTorch falls back, without a word, to a form that holds the N x M tensor. Zeros added to theta and phi
    # change no logit, and the columns added to g are cut off again. The mask is given as numbers, one row a
    # batch entry, because a boolean one is turned into N x M numbers on the CPU.
    num_values = g_BME.shape[2]
    width = max(theta_BND.shape[2], num_values)
    if theta_BND.device.type == "cuda":
        width = -(-width // 8) * 8
    query, key, value = (
        # A pad of nothing is a copy.
        (F.pad(part, (0, width - part.shape[2])) if part.shape[2] < width else part).contiguous().unsqueeze(1)
        for part in (theta_BND, phi_BMD, g_BME)
    )
    mask = None if bias_BM is None else bias_BM[:, None, None, :]
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return y.squeeze(1)[..., :num_values]


def _softmax_sum(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, bias_BM: Tensor | None, scale: float
) -> Tensor:
    """Return softmax(scale theta phi^T + bias) g."""
    if theta_BND.shape[2] == g_BME.shape[2]:
        return _attention(theta_BND, phi_BMD, g_BME, bias_BM, scale).contiguous()
    y_BNE = theta_BND.new_empty(*theta_BND.shape[:2], g_BME.shape[2])
    for entry, rows, weights, _ in _weights(theta_BND, phi_BMD, bias_BM, scale):
        torch.mm(weights, g_BME[entry], out=y_BNE[entry, rows])
    return y_BNE


def _softmax_sum_shapes(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, bias_BM: Tensor | None, scale: float
) -> Tensor:
    return theta_BND.new_empty(*theta_BND.shape[:2], g_BME.shape[2])


def _softmax_sum_flops(theta: Size, phi: Size, g: Size, bias: Size | None, scale: float) -> int:
    return 2 * theta[0] * theta[1] * phi[1] * (theta[2] + g[2])


def _softmax_sum_backward(
    dy_BNE: Tensor, theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, bias_BM: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of theta, phi and g."""
    # As their inputs lie, so that whatever else is added to them meets no other layout.
    dtheta_BND = torch.empty_like(theta_BND)
    dphi_BMD, dg_BME = torch.zeros_like(phi_BMD), torch.zeros_like(g_BME)
    for entry, rows, weights, spare in _weights(theta_BND, phi_BMD, bias_BM, scale):
        dy = dy_BNE[entry, rows]
        dg_BME[entry].addmm_(weights.t(), dy)
        torch.mm(dy, g_BME[entry].t(), out=spare)
        # PyTorch's own backward of softmax, in place: one pass over a row while it is in the cache.
        dlogits = torch._softmax_backward_data(spare, weights, 1, spare.dtype, grad_input=spare)
        torch.mm(dlogits, phi_BMD[entry], out=dtheta_BND[entry, rows])
        dphi_BMD[entry].addmm_(dlogits.t(), theta_BND[entry, rows])
    return dtheta_BND.mul_(scale), dphi_BMD.mul_(scale), dg_BME


def _softmax_sum_backward_shapes(
    dy_BNE: Tensor, theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, bias_BM: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(theta_BND), torch.empty_like(phi_BMD), torch.empty_like(g_BME)


def _softmax_sum_backward_flops(
    dy: Size, theta: Size, phi: Size, g: Size, bias: Size | None, scale: float
) -> int:
    """Logits, weights of dy, and the three gradients."""
    return 2 * theta[0] * theta[1] * phi[1] * (3 * theta[2] + 2 * g[2])


def _plain_softmax_sum(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, bias_BM: Tensor | None, scale: float
) -> Tensor:
    logits_BNM = scale * theta_BND @ phi_BMD.transpose(1, 2)
    if bias_BM is not None:
        logits_BNM = logits_BNM + bias_BM.unsqueeze(1)
    return logits_BNM.softmax(2) @ g_BME


_blocks = register(
    (_softmax_sum, _softmax_sum_shapes, _softmax_sum_flops),
    (_softmax_sum_backward, _softmax_sum_backward_shapes, _softmax_sum_backward_flops),
    _plain_softmax_sum,
)


def _weights(theta_BND: Tensor, phi_BMD: Tensor, bias_BM: Tensor | None, scale: float) -> Iterator[_Block]:
    """Yield (batch entry, queries, their weights over all keys, a spare tensor alike), block by block.

    The tensors are overwritten by the next block.
    """
    batch, num_queries, _ = theta_BND.shape
    num_keys = phi_BMD.shape[1]
    # Never all queries at once, however small the map: that would be the N x M tensor.
    most = max(1, min(_BLOCK_QUERIES, _BLOCK_NUMBERS // num_keys, -(-num_queries // 4)))
    logits, weights = theta_BND.new_empty(2, most, num_keys)
    for entry in range(batch):
        phi_DM = phi_BMD[entry].t()
        for start in range(0, num_queries, most):
            rows = slice(start, min(start + most, num_queries))
            count = rows.stop - rows.start
            torch.mm(theta_BND[entry, rows], phi_DM, out=logits[:count])
            if scale != 1.0:
                logits[:count] *= scale
            if bias_BM is not None:
                logits[:count] += bias_BM[entry]
            torch.softmax(logits[:count], 1, out=weights[:count])
            yield entry, rows, weights[:count], logits[:count]
