"""The concatenation form, eq. (5): y_i = sum_j ReLU(a_i + b_j) g_j / C(x), by sorting and prefix sums.

Queries (by -a_i) and keys (by b_j) are sorted together, downwards. The ReLU lets key j through for query i
exactly when b_j > -a_i, that is when the key stands before the query, so that

    y_i = a_i P_i + Q_i,    P_i, Q_i = sums of g_j and of b_j g_j over the keys before query i.

The sorted sequence is cut into runs of a few dozen places. The keys of earlier runs enter by prefix sums
over runs, which are few; those of the query's own run by a small dense product with ReLU(a_i + b_j). All
heavy work is then one batched matrix product, and rounding errors grow with the length of a run and not of
the sequence. The gradient has the same form with the roles of a and b exchanged: it sums over the queries
that stand after a key.

Both passes cost O((N + M)(log(N + M) + E)) time and O((N + M) E) memory; no N x M tensor exists.

Shapes: B batch, N queries, M keys, E value channels, R runs over the whole batch, L places in a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Longer runs mean more arithmetic in the products inside runs; shorter ones mean more prefix sums.
_RUN_LENGTH = 64


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
    y_BNE = _rectified_sum(a_BN.to(dtype), b_BM.to(dtype), g_BME.to(dtype))
    return (y_BNE / (b_BM.shape[1] if count is None else count)).to(g_BME.dtype)


@torch.library.custom_op("nonlocalnn::rectified_sum", mutates_args=())
def _rectified_sum(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) g_j."""
    if a_BN.numel() == 0 or g_BME.numel() == 0:
        return g_BME.new_zeros(a_BN.shape[0], a_BN.shape[1], g_BME.shape[2])
    # The caller may be under autocast, which would narrow the products to half precision.
    with torch.autocast(g_BME.device.type, enabled=False):
        runs = _sort_into_runs(a_BN, b_BM)
        # Two places more in each run, for what the earlier runs add to it.
        g_RLE = runs.gather_keys(g_BME, extra=2)
        p_RE, y_RE = runs.before(g_RLE)
        g_RLE[:, -2], g_RLE[:, -1] = p_RE, y_RE
        weights_RLL = runs.weights(extra=2)
        weights_RLL[:, :, -2] = runs.a_RL - runs.start_R1.to(runs.a_RL.dtype)
        weights_RLL[:, :, -1] = 1.0
        return runs.scatter_queries(torch.bmm(weights_RLL, g_RLE))


@_rectified_sum.register_fake
def _(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> Tensor:
    return g_BME.new_empty(a_BN.shape[0], a_BN.shape[1], g_BME.shape[2])


@torch.library.custom_op("nonlocalnn::rectified_sum_backward", mutates_args=())
def _rectified_sum_backward(
    dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and g.

    With i ~ j where a_i + b_j > 0: da_i = <dy_i, sum_{j~i} g_j>, db_j = <g_j, R_j> and
    dg_j = b_j R_j + S_j, where R_j and S_j are the sums of dy_i and of a_i dy_i over i ~ j.
    """
    if a_BN.numel() == 0 or g_BME.numel() == 0:
        return torch.zeros_like(a_BN), torch.zeros_like(b_BM), torch.zeros_like(g_BME)
    with torch.autocast(g_BME.device.type, enabled=False):
        runs = _sort_into_runs(a_BN, b_BM)
        g_RLE = runs.gather_keys(g_BME, extra=1)
        g_RLE[:, -1] = runs.before(g_RLE)[0]
        dy_RLE = runs.gather_queries(dy_BNE, extra=2)
        dy_RLE[:, -2], dy_RLE[:, -1] = runs.after(dy_RLE)
        # Products of gradients and values; the last row and column hold those with the other runs' sums.
        products_RLL = torch.bmm(dy_RLE[:, :-1], g_RLE.transpose(1, 2))
        weights_RLL = runs.weights(extra=2, transpose=True)
        passes_RLL = weights_RLL[:, :, :-2].transpose(1, 2) > 0
        inside_RLL = torch.where(passes_RLL, products_RLL[:, :-1, :-1], 0.0)
        da_RL = inside_RLL.sum(2) + products_RLL[:, :-1, -1]
        db_RL = inside_RLL.sum(1) + products_RLL[:, -1, :-1]
        weights_RLL[:, :, -2] = runs.b_RL - runs.end_R1.to(runs.b_RL.dtype)
        weights_RLL[:, :, -1] = 1.0
        dg_RLE = torch.bmm(weights_RLL, dy_RLE)
        return (
            runs.scatter_queries(da_RL.unsqueeze(2)).squeeze(2),
            runs.scatter_keys(db_RL.unsqueeze(2)).squeeze(2),
            runs.scatter_keys(dg_RLE),
        )


@_rectified_sum_backward.register_fake
def _(dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(a_BN), torch.empty_like(b_BM), g_BME.new_empty(g_BME.shape)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy_BNE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a_BN, b_BM, g_BME = ctx.saved_tensors
    return _rectified_sum_backward(dy_BNE, a_BN, b_BM, g_BME)


_rectified_sum.register_autograd(_backward, setup_context=_save_inputs)


@dataclass(frozen=True)
class _Runs:
    """Queries and keys of each batch entry, sorted together and cut into runs.

    Args:
        shape: (B, N, M).
        a_RL: a of the query at each place, -inf where there is none: its sum with any b is rectified to 0.
        b_RL: b of the key at each place, -inf where there is none.
        start_R1: -1 times what the first place of each run is sorted by, 0 where that is nothing; no a in
            the run is smaller. In float64, as is what is multiplied by it.
        end_R1: What the last place is sorted by; no b in the run is smaller.
        order_BT: Which of the N queries, M keys and empty places stands at each place.
        place_BT: The inverse: where each stands.
    """

    shape: tuple[int, int, int]
    a_RL: Tensor
    b_RL: Tensor
    start_R1: Tensor
    end_R1: Tensor
    order_BT: Tensor
    place_BT: Tensor

    def gather_queries(self, rows_BNE: Tensor, *, extra: int) -> Tensor:
        """Return each place's row, any row where there is no query, and ``extra`` places to fill."""
        return self._gather(rows_BNE, self.order_BT, extra)

    def gather_keys(self, rows_BME: Tensor, *, extra: int) -> Tensor:
        """Return each place's row, any row where there is no key, and ``extra`` places to fill."""
        return self._gather(rows_BME, self.order_BT - self.shape[1], extra)

    def _gather(self, rows: Tensor, index_BT: Tensor, extra: int) -> Tensor:
        batch, count, width = rows.shape
        offset_B1 = torch.arange(0, batch * count, count, device=rows.device).unsqueeze(1)
        index_RL = (index_BT.clamp(0, count - 1) + offset_B1).view(self.a_RL.shape)
        index_RL = F.pad(index_RL, (0, extra))
        gathered = rows.reshape(batch * count, width).index_select(0, index_RL.flatten())
        return gathered.view(*index_RL.shape, width)

    def scatter_queries(self, rows_RLE: Tensor) -> Tensor:
        """Return the rows of the places where queries stand, in the queries' own order, (B, N, E)."""
        return self._scatter(rows_RLE, self.place_BT[:, : self.shape[1]])

    def scatter_keys(self, rows_RLE: Tensor) -> Tensor:
        """Return the rows of the places where keys stand, in the keys' own order, (B, M, E)."""
        return self._scatter(rows_RLE, self.place_BT[:, self.shape[1] : self.shape[1] + self.shape[2]])

    def _scatter(self, rows_RLE: Tensor, place: Tensor) -> Tensor:
        batch, total = self.place_BT.shape
        offset_B1 = torch.arange(0, batch * total, total, device=place.device).unsqueeze(1)
        rows = rows_RLE.reshape(batch * total, -1).index_select(0, (place + offset_B1).flatten())
        return rows.view(*place.shape, -1)

    def weights(self, *, extra: int, transpose: bool = False) -> Tensor:
        """Return ReLU(a_i + b_j) inside each run: (R, queries, keys + extra), or transposed likewise."""
        rows_RL, columns_RL = (self.b_RL, self.a_RL) if transpose else (self.a_RL, self.b_RL)
        num_runs, length = rows_RL.shape
        weights = rows_RL.new_empty(num_runs, length, length + extra)
        inside = weights[:, :, :length]
        torch.add(rows_RL.unsqueeze(2), columns_RL.unsqueeze(1), out=inside)
        inside.relu_()
        return weights

    def before(self, g_RLE: Tensor) -> tuple[Tensor, Tensor]:
        """Return P and a P + Q over the keys of all earlier runs, at a = ``start_R1``; each (R, E)."""
        p_BER, q_BER = self._run_sums(g_RLE, self.b_RL, self.end_R1)
        p_RE, q_RE = (_before_each(part).transpose(1, 2).flatten(0, 1) for part in (p_BER, q_BER))
        # For the a of the run's beginning, near to which those of its queries are: there a P + Q is a sum of
        # terms of one sign times g, where P and Q by themselves could be far larger than it.
        y_RE = self.start_R1 * p_RE + q_RE
        return p_RE.to(g_RLE.dtype), y_RE.to(g_RLE.dtype)

    def after(self, dy_RLE: Tensor) -> tuple[Tensor, Tensor]:
        """Return R and b R + S over the queries of all later runs, at b = ``end_R1``; each (R, E)."""
        r_BER, s_BER = self._run_sums(dy_RLE, self.a_RL, self.start_R1)
        r_RE, s_RE = (
            _before_each(part.flip(2)).flip(2).transpose(1, 2).flatten(0, 1) for part in (r_BER, s_BER)
        )
        dg_RE = self.end_R1 * r_RE + s_RE
        return r_RE.to(dy_RLE.dtype), dg_RE.to(dy_RLE.dtype)

    def _run_sums(self, rows_RLE: Tensor, factor_RL: Tensor, near_R1: Tensor) -> tuple[Tensor, Tensor]:
        """Return each run's sums of rows and of factor times row, (B, E, R / B), float64.

        Args:
            rows_RLE: The rows; those behind the run's L places are left out.
            factor_RL: Factors; a place where it is infinite is left out.
            near_R1: A number near each run's factors. Only differences from it are multiplied in the type of
                the rows; what it stands for itself cancels exactly between the two sums.
        """
        there_RL = factor_RL.isfinite()
        factors = [
            there_RL.to(rows_RLE.dtype),
            (factor_RL - near_R1.to(factor_RL.dtype)).masked_fill(~there_RL, 0.0),
        ]
        sums_R2E = torch.bmm(torch.stack(factors, 1), rows_RLE[:, : factor_RL.shape[1]]).double()
        sums_R2E[:, 1] += near_R1 * sums_R2E[:, 0]
        sums_2BER = sums_R2E.unflatten(0, (self.shape[0], -1)).permute(2, 0, 3, 1)
        return sums_2BER[0], sums_2BER[1]


def _before_each(sums_BER: Tensor) -> Tensor:
    """Return for each run the sum over all earlier ones."""
    # Runs innermost: a cumulative sum over any other dimension is many times slower on the CPU.
    return F.pad(sums_BER[..., :-1], (1, 0)).contiguous().cumsum(2)


def _sort_into_runs(a_BN: Tensor, b_BM: Tensor) -> _Runs:
    batch, num_queries = a_BN.shape
    num_keys = b_BM.shape[1]
    total = num_queries + num_keys
    padding = -total % _RUN_LENGTH
    # Queries first: a stable sort then leaves a query before the keys with a + b exactly 0, where the
    # ReLU and its derivative are 0.
    values_BT = F.pad(torch.cat([-a_BN, b_BM], 1), (0, padding), value=-torch.inf)
    sorted_BT, order_BT = values_BT.sort(dim=1, descending=True, stable=True)
    places = torch.arange(total + padding, device=a_BN.device).expand(batch, -1)
    place_BT = torch.empty_like(order_BT).scatter_(1, order_BT, places)
    is_query = order_BT < num_queries
    is_key = ~is_query & (order_BT < total)
    sorted_RL = sorted_BT.view(-1, _RUN_LENGTH)
    start_R1, end_R1 = -sorted_RL[:, :1].double(), sorted_RL[:, -1:].double()
    return _Runs(
        shape=(batch, num_queries, num_keys),
        a_RL=(-sorted_BT).masked_fill(~is_query, -torch.inf).view(-1, _RUN_LENGTH),
        b_RL=sorted_BT.masked_fill(~is_key, -torch.inf).view(-1, _RUN_LENGTH),
        start_R1=start_R1.masked_fill(~start_R1.isfinite(), 0.0),
        end_R1=end_R1.masked_fill(~end_R1.isfinite(), 0.0),
        order_BT=order_BT,
        place_BT=place_BT,
    )
