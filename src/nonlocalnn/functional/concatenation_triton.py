"""The concatenation form on GPUs, by Triton: the same sums as concatenation.py, in blocks of 64 keys.

Sorted downwards by b, the keys that pass the ReLU for a query come first. Queries are sorted likewise and
taken 64 at a time. For such a tile all keys pass in the blocks before one, `first`, and none after another,
`last`; the few blocks from the one to the other are computed pair by pair, as matrix products. What comes
before is a P + Q of whole blocks. Rows are read and written where they lie: none is copied into sorted order.

A few thousand keys are not worth sorting: every block is then computed pair by pair.

No sum is shared by two programs, so that the same input gives the same bits.

Shapes: B batch, N queries, M keys, E channels, R blocks of keys, T tiles of queries, S = 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 64
_CHANNELS = 64
# Up to so many keys the pairs are faster than two sorts. A guess from the arithmetic; not measured.
_FEW_KEYS = 4096


def average(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count: int | Tensor) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) g_j / count, (B, N, E).

    Args:
        a_BN: Float32, as all that follows.
        b_BM: At least one key.
        g_BME: Values.
        count: C(x), one number or one a batch entry, (B, 1, 1).
    """
    factor_B = _factor(count, g_BME)
    is_sorted = b_BM.shape[1] > _FEW_KEYS
    y_BNE, _ = _sums(_Side.of(a_BN, is_sorted), _Side.of(b_BM, is_sorted), g_BME.contiguous(), factor_B)
    return y_BNE


def gradients(
    dy_BNE: Tensor, a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, count: int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and g: see the backward pass of concatenation.py for what they are.

    Args:
        dy_BNE: The gradient of what :func:`average` returns.
        a_BN: As what follows, what :func:`average` took.
        b_BM: Keys.
        g_BME: Values.
        count: C(x).
    """
    factor_B, is_sorted = _factor(count, g_BME), max(a_BN.shape[1], b_BM.shape[1]) > _FEW_KEYS
    queries, keys = _Side.of(a_BN, is_sorted), _Side.of(b_BM, is_sorted)
    dy_BNE, g_BME = dy_BNE.contiguous(), g_BME.contiguous()
    _, da_BN = _sums(queries, keys, g_BME, factor_B, own_BNE=dy_BNE, wants_sums=False)
    dg_BME, db_BM = _sums(keys, queries, dy_BNE, factor_B, own_BNE=g_BME)
    return da_BN, db_BM, dg_BME


def _factor(count: int | Tensor, like: Tensor) -> Tensor:
    count_B = torch.as_tensor(count, dtype=like.dtype, device=like.device).reshape(-1)
    return (1 / count_B).expand(like.shape[0]).contiguous()


@dataclass(frozen=True)
class _Side:
    """The queries or the keys, sorted downwards by a or b, or as they are.

    Args:
        values_BN: a or b, in that order.
        order_BN: Which query or key stands at each place.
        is_sorted: Whether they are sorted.
    """

    values_BN: Tensor
    order_BN: Tensor
    is_sorted: bool

    @classmethod
    def of(cls, values_BN: Tensor, is_sorted: bool) -> _Side:
        if is_sorted:
            return cls(*values_BN.sort(dim=1, descending=True), is_sorted)
        places = torch.arange(values_BN.shape[1], device=values_BN.device)
        return cls(values_BN.contiguous(), places.expand(values_BN.shape).contiguous(), is_sorted)

    @property
    def end_BR(self) -> Tensor:
        """The last value of each block."""
        last = torch.arange(
            _BLOCK - 1, self.values_BN.shape[1] + _BLOCK - 1, _BLOCK, device=self.values_BN.device
        )
        return self.values_BN[:, last.clamp(max=self.values_BN.shape[1] - 1)].contiguous()


def _sums(
    queries: _Side,
    keys: _Side,
    rows_BME: Tensor,
    factor_B: Tensor,
    *,
    own_BNE: Tensor | None = None,
    wants_sums: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return what each query sums of the rows of the keys that pass, in the order the queries came in.

    Args:
        queries: Of these there is at least one, as of the keys.
        keys: Whose rows are summed.
        rows_BME: A row a key, contiguous.
        factor_B: On both results.
        own_BNE: A row a query, contiguous; None asks for the first result alone.
        wants_sums: Whether the first result is asked for.

    Returns:
        sum_j ReLU(a_i + b_j) row_j, (B, N, E), and the product of sum_{j passes} row_j with the query's own
        row, (B, N). What was not asked for is empty.
    """
    (batch, num_queries), (_, num_keys, width) = queries.values_BN.shape, rows_BME.shape
    num_blocks, num_tiles = triton.cdiv(num_keys, _BLOCK), triton.cdiv(num_queries, _BLOCK)
    first_BT, last_BT = _boundaries(queries, keys, num_blocks, num_tiles)
    table_BR2E, start_BR = _before(keys, rows_BME, num_blocks)
    sums_BNE = rows_BME.new_empty(batch, num_queries, width) if wants_sums else rows_BME.new_empty(0)
    dots_BN = rows_BME.new_empty(0) if own_BNE is None else rows_BME.new_empty(batch, num_queries)
    # A product with a query's own row needs all its channels in one program.
    num_slices = triton.cdiv(width, _CHANNELS) if own_BNE is None else 1
    _sum_kernel[num_tiles, num_slices, batch](
        queries.values_BN, queries.order_BN, keys.values_BN, keys.order_BN,
        rows_BME, table_BR2E, start_BR, first_BT, last_BT,
        rows_BME if own_BNE is None else own_BNE, factor_B, sums_BNE, dots_BN,
        num_queries, num_keys, num_blocks, width,
        BLOCK=_BLOCK, CHANNELS=_CHANNELS, WANTS_SUMS=wants_sums, WANTS_DOTS=own_BNE is not None,
        PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
    )  # fmt: skip
    return sums_BNE, dots_BN


def _boundaries(queries: _Side, keys: _Side, num_blocks: int, num_tiles: int) -> tuple[Tensor, Tensor]:
    """Return the first and the last block that each tile computes pair by pair, (B, T) each."""
    batch, num_queries = queries.values_BN.shape
    if not keys.is_sorted:
        first_BT = torch.zeros(batch, num_tiles, dtype=torch.int32, device=queries.values_BN.device)
        return first_BT, first_BT + (num_blocks - 1)
    # k(i), the number of keys with b_j > -a_i. NaN is sought beyond the last block, and makes NaN there.
    k_BN = torch.searchsorted(-keys.values_BN, queries.values_BN)
    block_BN = (k_BN // _BLOCK).clamp(max=num_blocks - 1).to(torch.int32)
    places = torch.arange(num_tiles * _BLOCK, device=block_BN.device).clamp(max=num_queries - 1)
    block_BTS = block_BN[:, places].unflatten(1, (num_tiles, _BLOCK))
    return block_BTS.amin(2), block_BTS.amax(2)


def _before(keys: _Side, rows_BME: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
    """Return P, and a P + Q at a = start, of all blocks before each one, (B, R, 2, E), and start, (B, R).

    As in concatenation.py: near that a, a P + Q is a sum of rows with factors of one sign, where P and Q by
    themselves could be far larger than it.
    """
    batch, num_keys, width = rows_BME.shape
    if not keys.is_sorted:
        return rows_BME.new_zeros(batch, num_blocks, 2, width), rows_BME.new_zeros(batch, num_blocks)
    end_BR, sums_BR2E = keys.end_BR, rows_BME.new_empty(batch, num_blocks, 2, width)
    _block_kernel[num_blocks, triton.cdiv(width, _CHANNELS), batch](
        keys.values_BN, keys.order_BN, end_BR, rows_BME, sums_BR2E,
        num_keys, num_blocks, width, BLOCK=_BLOCK, CHANNELS=_CHANNELS,
    )  # fmt: skip
    wide_BR2E, end = sums_BR2E.double(), end_BR.double().unsqueeze(2)
    wide_BR2E[:, :, 1] += end * wide_BR2E[:, :, 0]
    before_BR2E = F.pad(wide_BR2E.cumsum(1)[:, :-1], (0, 0, 0, 0, 1, 0))
    start_BR = F.pad(-end_BR[:, :-1], (1, 0))
    before_BR2E[:, :, 1] += start_BR.double().unsqueeze(2) * before_BR2E[:, :, 0]
    return before_BR2E.to(rows_BME.dtype), start_BR


@triton.jit
def _block_kernel(
    values, order, end, rows, sums, num_keys, num_blocks, width, BLOCK: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write the sums of a block's rows, and of its rows times (value - the block's last value)."""
    block, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    places = block * BLOCK + tl.arange(0, BLOCK)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_key, is_channel = places < num_keys, channels < width
    key = tl.load(order + batch * num_keys + places, mask=is_key, other=0)
    value = tl.load(values + batch * num_keys + places, mask=is_key, other=0.0)
    last = tl.load(end + batch * num_blocks + block)
    row = tl.load(
        rows + (batch * num_keys + key)[:, None] * width + channels[None, :],
        mask=is_key[:, None] & is_channel[None, :],
        other=0.0,
    )
    into = sums + (batch * num_blocks + block) * 2 * width + channels
    tl.store(into, tl.sum(row, 0), mask=is_channel)
    tl.store(into + width, tl.sum(row * tl.where(is_key, value - last, 0.0)[:, None], 0), mask=is_channel)


@triton.jit
def _sum_kernel(
    a, a_order, b, b_order,
    rows, table, start, first, last,
    own, factor, sums, dots,
    num_queries, num_keys, num_blocks, width,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, WANTS_SUMS: tl.constexpr, WANTS_DOTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write what a tile of queries sums: see `_sums`."""
    batch = tl.program_id(2).to(tl.int64)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_query = places < num_queries
    a_i = tl.load(a + batch * num_queries + places, mask=is_query, other=0.0)
    query = batch * num_queries + tl.load(a_order + batch * num_queries + places, mask=is_query, other=0)
    first_block = tl.load(first + batch * tl.num_programs(0) + tl.program_id(0))
    last_block = tl.load(last + batch * tl.num_programs(0) + tl.program_id(0))
    beyond = a_i - tl.load(start + batch * num_blocks + first_block)
    scale = tl.load(factor + batch)
    dot = tl.zeros((BLOCK,), tl.float32)
    for slice_ in range(tl.program_id(1), tl.cdiv(width, CHANNELS), tl.num_programs(1)):
        channels = slice_ * CHANNELS + tl.arange(0, CHANNELS)
        is_channel = channels < width
        before = table + (batch * num_blocks + first_block) * 2 * width + channels
        p = tl.load(before, mask=is_channel, other=0.0)
        rectified = (
            beyond[:, None] * p[None, :] + tl.load(before + width, mask=is_channel, other=0.0)[None, :]
        )
        passing = tl.zeros((BLOCK, CHANNELS), tl.float32) + p[None, :]
        for block in range(first_block, last_block + 1):
            key_places = block * BLOCK + tl.arange(0, BLOCK)
            is_key = key_places < num_keys
            b_j = tl.load(b + batch * num_keys + key_places, mask=is_key, other=-float("inf"))
            key = tl.load(b_order + batch * num_keys + key_places, mask=is_key, other=0)
            row = tl.load(
                rows + (batch * num_keys + key)[:, None] * width + channels[None, :],
                mask=is_key[:, None] & is_channel[None, :],
                other=0.0,
            )
            logit = a_i[:, None] + b_j[None, :]
            # NaN is not at most 0, and stays.
            if WANTS_SUMS:
                weight = tl.where(logit <= 0, 0.0, logit)
                rectified += tl.dot(weight, row, input_precision=PRECISION)
            if WANTS_DOTS:
                passing += tl.dot(tl.where(logit > 0, 1.0, 0.0), row, input_precision=PRECISION)
        at = query[:, None] * width + channels[None, :]
        inside = is_query[:, None] & is_channel[None, :]
        if WANTS_SUMS:
            tl.store(sums + at, rectified * scale, mask=inside)
        if WANTS_DOTS:
            dot += tl.sum(passing * tl.load(own + at, mask=inside, other=0.0), 1)
    if WANTS_DOTS:
        tl.store(dots + query, dot * scale, mask=is_query)
