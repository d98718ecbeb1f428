"""The concatenation form, eq. (5): y_i = sum_j ReLU(a_i + b_j) g_j / C(x), by sorting and prefix sums.

With b sorted downwards, the keys that the ReLU lets through for query i are the first k(i), those with
b_j > -a_i, so that

    y_i = a_i P_k(i) + Q_k(i),    P, Q = prefix sums of g and of b g in that order.

The sorted keys are cut into runs of a few. Prefix sums are kept for whole runs only, which makes them few;
a query adds the keys of the run in which its k(i) falls one by one. Both are rows of one table, and y_i is a
short weighted sum of its rows. Rounding errors thus grow with the length of a run and not of the sequence.
Queries are sorted as well, so that neighbours read the same rows. On GPUs concatenation_triton.py does it.

The gradient has the same form with the roles of a and b exchanged. Both passes cost
O((N + M)(log(N + M) + E)) time and O((N + M) E) memory; no N x M tensor exists.

Shapes: B batch, N queries, M keys, E channels of the rows that are summed, R runs, L keys in a run. "Keys"
are whatever is summed over: in the backward pass that is the queries, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.functional.modes import is_shared_out, is_transformed
from nonlocalnn.functional.operators import register
from nonlocalnn.functional.products import matmul
from nonlocalnn.functional.sizes import pairs_are_faster

# Pairs of small maps are computed for as many entries at a time as have this many: their memory is used again
# by the next ones, where fresh memory took longer than the products.
_PAIRS = 2**19
# Longer runs mean longer sums for each query, shorter ones more prefix sums. Runs of one key took twice as
# long, and lost digits where a and b are large and opposite.
_RUN_LENGTH = 16
Size = torch.Size


def rectified_non_local(
    a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, *, count_B11: Tensor | None = None, engine: str = "auto"
) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) g_j / C(x), shape (B, N, E), in the type of g.

    Args:
        a_BN: theta_i . w_f[:D].
        b_BM: phi_j . w_f[D:].
        g_BME: Values; a masked key's is zero, so that it adds nothing wherever it is sorted.
        count_B11: C(x); None is M.
        engine: "auto" computes few pairs one by one; "fused" never does.
    """
    if torch.compiler.is_exporting():
        return _exported_average(a_BN, b_BM, g_BME, count_B11)
    dtype = torch.promote_types(g_BME.dtype, torch.float32)
    is_plain = is_transformed() or is_shared_out(g_BME)
    average = _plain_rectified_average if is_plain else _average
    holds_pairs = engine == "auto" and pairs_are_faster(a_BN, g_BME)
    y_BNE: Tensor = average(a_BN.to(dtype), b_BM.to(dtype), g_BME.to(dtype), count_B11, holds_pairs)
    return y_BNE.to(g_BME.dtype)


def _exported_average(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count_B11: Tensor | None) -> Tensor:
    """Return the same by operators that ONNX has too, in a few lines and for any size.

    Prefix sums over single keys instead of runs, in float64 against their rounding, and k(i) by sorting the
    queries in among the keys, as ONNX has no binary search. Where a_i + b_j is 0 it does not matter on which
    side of query i key j is put.
    """
    # 0.23 s where the N x M tensor takes 0.83 s, at N = 12,544.
    num_queries, num_values = a_BN.shape[1], g_BME.shape[2]
    merged_order = torch.cat([-a_BN, b_BM], 1).argsort(dim=1, descending=True)
    keys_before = (merged_order >= num_queries).to(torch.int64).cumsum(1)
    k_BN = torch.zeros_like(merged_order).scatter(1, merged_order, keys_before)[:, :num_queries]
    b_BM, order_BM = b_BM.sort(dim=1, descending=True)
    g_BME1 = g_BME.gather(1, order_BM.unsqueeze(2).expand(-1, -1, num_values)).double().unsqueeze(3)
    rows = torch.cat([g_BME1, b_BM[:, :, None, None] * g_BME1], 3).flatten(2)
    sums = F.pad(rows.cumsum(1), (0, 0, 1, 0))
    p_BNE, q_BNE = (
        sums.gather(1, k_BN.unsqueeze(2).expand(-1, -1, 2 * num_values)).unflatten(2, (-1, 2)).unbind(3)
    )
    y_BNE = (a_BN.unsqueeze(2) * p_BNE + q_BNE) / (b_BM.shape[1] if count_B11 is None else count_B11)
    return y_BNE.to(g_BME.dtype)


def _rectified_average(
    a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count_B11: Tensor | None, holds_pairs: bool
) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) g_j / C(x)."""
    if a_BN.numel() == 0 or g_BME.numel() == 0:
        return g_BME.new_zeros(a_BN.shape[0], a_BN.shape[1], g_BME.shape[2])
    count = b_BM.shape[1] if count_B11 is None else count_B11
    if holds_pairs:
        y_BNE = g_BME.new_empty(*a_BN.shape, g_BME.shape[2])
        for bundle in _bundles(a_BN, b_BM):
            y_BNE[bundle] = matmul(_pairs(a_BN[bundle], b_BM[bundle]), g_BME[bundle])
        return y_BNE.div_(count)
    if engine := _gpu_engine(g_BME):
        return engine.average(a_BN, b_BM, g_BME, count)
    queries, keys = _Side.of(a_BN), _Side.of(b_BM)
    sums = _Sums.of(queries, keys)
    return queries.unsort(sums.rectified(keys.table(g_BME), count))


def _rectified_average_shapes(
    a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count_B11: Tensor | None, holds_pairs: bool
) -> Tensor:
    return g_BME.new_empty(a_BN.shape[0], a_BN.shape[1], g_BME.shape[2])


def _rectified_average_flops(a: Size, b: Size, g: Size, count: Size | None, holds_pairs: bool) -> int:
    """A sum of L + 2 rows for each query, and two prefix sums over the keys; or a product over the pairs."""
    if holds_pairs:
        return 2 * g[0] * g[2] * a[1] * b[1]
    return 2 * g[0] * g[2] * ((_RUN_LENGTH + 2) * a[1] + 2 * b[1])


def _rectified_average_backward(
    dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count_B11: Tensor | None, holds_pairs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and g.

    With i ~ j where a_i + b_j > 0: C da_i = <dy_i, sum_{j~i} g_j>, C db_j = <g_j, sum_{i~j} dy_i> and
    C dg_j = sum_i ReLU(a_i + b_j) dy_i.
    """
    if a_BN.numel() == 0 or g_BME.numel() == 0:
        return torch.zeros_like(a_BN), torch.zeros_like(b_BM), torch.zeros_like(g_BME)
    count = b_BM.shape[1] if count_B11 is None else count_B11
    if holds_pairs:
        dy_BNE, da_BN, db_BM = dy_BNE / count, torch.empty_like(a_BN), torch.empty_like(b_BM)
        dg_BME = g_BME.new_empty(g_BME.shape)
        for bundle in _bundles(a_BN, b_BM):
            f_BNM, dy = _pairs(a_BN[bundle], b_BM[bundle]), dy_BNE[bundle]
            df_BNM = matmul(dy, g_BME[bundle].transpose(1, 2))
            # What autograd calls for a ReLU. To multiply by a mask took twice as long.
            torch.ops.aten.threshold_backward.grad_input(df_BNM, f_BNM, 0, grad_input=df_BNM)
            da_BN[bundle], db_BM[bundle] = df_BNM.sum(2), df_BNM.sum(1)
            dg_BME[bundle] = matmul(f_BNM.transpose(1, 2), dy)
        return da_BN, db_BM, dg_BME
    if engine := _gpu_engine(g_BME):
        return engine.gradients(dy_BNE, a_BN, b_BM, g_BME, count)
    queries, keys = _Side.of(a_BN), _Side.of(b_BM)
    over_keys, over_queries = _Sums.of(queries, keys), _Sums.of(keys, queries)
    g_table, dy_table = keys.table(g_BME), queries.table(dy_BNE)
    da_BS = queries.dot(dy_table, over_keys.passing(g_table))
    db_BS = keys.dot(g_table, over_queries.passing(dy_table))
    dg_BSE = over_queries.rectified(dy_table, count)
    return (
        (queries.unsort(da_BS.unsqueeze(2)) / count).squeeze(2),
        (keys.unsort(db_BS.unsqueeze(2)) / count).squeeze(2),
        keys.unsort(dg_BSE),
    )


def _rectified_average_backward_shapes(
    dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count_B11: Tensor | None, holds_pairs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(a_BN), torch.empty_like(b_BM), g_BME.new_empty(g_BME.shape)


def _rectified_average_backward_flops(
    dy: Size, a: Size, b: Size, g: Size, count: Size | None, holds_pairs: bool
) -> int:
    """Sums over keys for da, over queries for db and dg, and two rows of dot products; or two products."""
    if holds_pairs:
        return 4 * g[0] * g[2] * a[1] * b[1]
    sums = (_RUN_LENGTH + 2) * (a[1] + 2 * b[1])
    return 2 * g[0] * g[2] * (sums + _RUN_LENGTH * (a[1] + b[1]) + 2 * (a[1] + b[1]))


def _gpu_engine(rows_BME: Tensor) -> Any:
    """Return the module that computes this on a GPU, or None: on CPUs, in float64, without Triton."""
    if not rows_BME.is_cuda or rows_BME.dtype != torch.float32 or not _has_triton():
        return None
    # Triton is not there in every build of PyTorch.
    from nonlocalnn.functional import concatenation_triton

    return concatenation_triton


@cache
def _has_triton() -> bool:
    # PyTorch's own question: is it installed, and does it serve this GPU?
    from torch.utils._triton import has_triton

    return has_triton()


def _plain_rectified_average(
    a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count_B11: Tensor | None, holds_pairs: bool = True
) -> Tensor:
    return matmul(_pairs(a_BN, b_BM), g_BME) / (b_BM.shape[1] if count_B11 is None else count_B11)


def _pairs(a_BN: Tensor, b_BM: Tensor) -> Tensor:
    """Return ReLU(a_i + b_j), shape (B, N, M)."""
    return (a_BN.unsqueeze(2) + b_BM.unsqueeze(1)).relu_()


def _bundles(a_BN: Tensor, b_BM: Tensor) -> Iterator[slice]:
    """Yield which entries are computed together."""
    step = max(1, _PAIRS // (a_BN.shape[1] * b_BM.shape[1]))
    return (slice(first, first + step) for first in range(0, a_BN.shape[0], step))


_average = register(
    (_rectified_average, _rectified_average_shapes, _rectified_average_flops),
    (_rectified_average_backward, _rectified_average_backward_shapes, _rectified_average_backward_flops),
    _plain_rectified_average,
)


@dataclass(frozen=True)
class _Side:
    """The queries or the keys, sorted downwards by a or b and cut into runs.

    Args:
        values_BS: The sorted values, and -inf up to a whole number of runs that is one run more than is full:
            nothing passes the ReLU with them.
        order_BS: Which query or key stands at each place; 0 at the places filled up.
        rank_BN: At which place each stands.
    """

    values_BS: Tensor
    order_BS: Tensor
    rank_BN: Tensor

    @classmethod
    def of(cls, values_BN: Tensor) -> _Side:
        batch, count = values_BN.shape
        values_BS, order_BS = values_BN.sort(dim=1, descending=True)
        places = torch.arange(count, device=values_BN.device).expand(batch, -1)
        rank_BN = torch.empty_like(order_BS).scatter_(1, order_BS, places)
        filling = (0, (count // _RUN_LENGTH + 1) * _RUN_LENGTH - count)
        return cls(F.pad(values_BS, filling, value=-torch.inf), F.pad(order_BS, filling), rank_BN)

    @property
    def runs_BRL(self) -> Tensor:
        """The values, run by run."""
        return self.values_BS.unflatten(1, (-1, _RUN_LENGTH))

    @property
    def start_BR(self) -> Tensor:
        """For each run a number that no -value of an earlier run exceeds, 0 for the first, float64."""
        return F.pad(-self.runs_BRL[:, :-1, -1], (1, 0)).double()

    def table(self, rows_BNE: Tensor) -> Tensor:
        """Return each run's L rows, and P and a P + Q of all earlier runs at a = start, (B, R, L + 2, E).

        a P + Q is kept for an a that is near to those of the run's queries: it is a sum of rows with factors
        of one sign there, where P and Q by themselves could be far larger than it.
        """
        index_BRL = self.order_BS + _offsets(rows_BNE)
        index_BRL = F.pad(index_BRL.unflatten(1, (-1, _RUN_LENGTH)), (0, 2))
        table = rows_BNE.flatten(0, 1).index_select(0, index_BRL.flatten()).view(*index_BRL.shape, -1)
        # The last run is not full, and no run is later than it.
        full, values_BRL = table[:, :-1, :-2], self.runs_BRL[:, :-1]
        end_BR = values_BRL[:, :, -1]
        # The end of the run is taken off before and added after: what is large and common to all values
        # must not cost the digits in which they differ.
        factors = torch.stack([torch.ones_like(values_BRL), values_BRL - end_BR.unsqueeze(2)], 2)
        sums_BR2E = (factors @ full).double()
        sums_BR2E[:, :, 1] += end_BR.double().unsqueeze(2) * sums_BR2E[:, :, 0]
        # Runs innermost: a cumulative sum over any other dimension is many times slower on the CPU.
        before_B2ER = F.pad(sums_BR2E.permute(0, 2, 3, 1), (1, 0)).contiguous().cumsum(3)
        p_BRE, q_BRE = before_B2ER.transpose(2, 3).unbind(1)
        table[:, :, -2] = p_BRE
        table[:, :, -1] = self.start_BR.unsqueeze(2) * p_BRE + q_BRE
        return table

    def dot(self, table: Tensor, rows_BSE: Tensor) -> Tensor:
        """Return the dot product of each sorted row of a :meth:`table` with another row, (B, S)."""
        ours = table[:, :, :-2].flatten(0, 1)
        # The diagonals of small products: L times the arithmetic, which is little, and nothing is copied.
        products = torch.bmm(ours, rows_BSE.view(ours.shape).transpose(1, 2))
        return products.diagonal(dim1=1, dim2=2).reshape(rows_BSE.shape[:2])

    def unsort(self, rows_BSE: Tensor) -> Tensor:
        """Return sorted rows in the order that the values came in, (B, N, E)."""
        index_BN = self.rank_BN + _offsets(rows_BSE)
        rows = rows_BSE.flatten(0, 1).index_select(0, index_BN.flatten())
        return rows.view(*index_BN.shape, -1)


@dataclass(frozen=True)
class _Sums:
    """Which rows of the keys' table each query sums, in sorted order; the places filled up sum no row.

    Args:
        index_BSK: Rows of the whole table, K = L + 2 for each query.
        near_BSL: a_i + b_j for the keys of the run in which k(i) falls.
        beyond_BS: a_i - start of that run.
    """

    index_BSK: Tensor
    near_BSL: Tensor
    beyond_BS: Tensor

    @classmethod
    def of(cls, queries: _Side, keys: _Side) -> _Sums:
        a_BS = queries.values_BS
        # k(i), the number of keys with b_j > -a_i: those with a + b of exactly 0 are out.
        k_BS = torch.searchsorted(-keys.values_BS, a_BS)
        batch, num_runs, length = keys.runs_BRL.shape
        # NaN is sought beyond the last run; there as elsewhere it makes NaN of the query's y.
        run_BS = (k_BS // _RUN_LENGTH).clamp(max=num_runs - 1)
        run_BS1 = run_BS.unsqueeze(2)
        near_BSL = a_BS.unsqueeze(2) + keys.runs_BRL.gather(1, run_BS1.expand(-1, -1, length))
        places_K = torch.arange(length + 2, device=a_BS.device)
        first_B1 = torch.arange(0, batch * num_runs, num_runs, device=a_BS.device).unsqueeze(1)
        index_BSK = (run_BS + first_B1).unsqueeze(2) * (length + 2) + places_K
        beyond_BS = a_BS - keys.start_BR.to(a_BS.dtype).gather(1, run_BS)
        return cls(index_BSK, near_BSL, beyond_BS)

    def rectified(self, table: Tensor, count: int | Tensor) -> Tensor:
        """Return sum_j ReLU(a_i + b_j) row_j / count, (B, S, E)."""
        ones = torch.ones_like(self.beyond_BS)
        earlier_BS2 = torch.stack([self.beyond_BS, ones], 2)
        # The weights are divided, which are fewer than the sums.
        return self._sum(table, earlier_BS2 / count, self.near_BSL.relu() / count)

    def passing(self, table: Tensor) -> Tensor:
        """Return the sum of row_j over the j with a_i + b_j > 0, (B, S, E)."""
        ones = torch.ones_like(self.beyond_BS)
        earlier = torch.stack([ones, torch.zeros_like(ones)], 2)
        return self._sum(table, earlier, (self.near_BSL > 0).to(ones.dtype))

    def _sum(self, table: Tensor, earlier_BS2: Tensor, inside_BSL: Tensor) -> Tensor:
        weights_BSK = torch.cat([inside_BSL, earlier_BS2], 2)
        rows = table.flatten(0, 2)
        sums = F.embedding_bag(
            self.index_BSK.flatten(0, 1), rows, mode="sum", per_sample_weights=weights_BSK.flatten(0, 1)
        )
        return sums.view(*self.beyond_BS.shape, -1)


def _offsets(rows_BNE: Tensor) -> Tensor:
    """Return where each batch entry's rows begin once the batch is flattened, (B, 1)."""
    batch, count, _ = rows_BNE.shape
    return torch.arange(0, batch * count, count, device=rows_BNE.device).unsqueeze(1)
