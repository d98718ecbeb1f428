"""The matrix products that a block cannot do without, alone: what is left of its time is overhead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS

# A product larger than this many numbers is computed in parts of its rows.
_PART_NUMBERS = 2**24


@dataclass(frozen=True)
class Product:
    """A batched product (B, rows, inner) x (B, inner, columns)."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """FLOPs, 2 a multiply-add."""
        return 2 * self.batch * self.rows * self.inner * self.columns


def count_positions(block: NonLocalNd, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return N and M, the queries and keys of one batch entry, for an input of this shape."""
    sides = torch.Size(shape[2:])
    return sides.numel(), torch.Size(block.key_sides(sides)).numel()


def products(block: NonLocalNd, shape: tuple[int, ...]) -> list[Product]:
    """Return the products of a forward pass of the block on an input of this shape.

    Those are the 1x1 convolutions and the form's own; the concatenation form has none of its own, and needs
    phi only where that is pooled after.
    """
    batch, channels = shape[:2]
    num_queries, num_keys = count_positions(block, shape)
    projected = num_keys if block.sub_sample == "before" else num_queries
    inter = block.inter_channels
    found = [Product(batch, projected, channels, inter), Product(batch, num_queries, inter, channels)]
    if block.instantiation in SOFTMAX_INSTANTIATIONS:
        depth = channels if block.theta is None else inter
        found.append(Product(batch, num_queries, depth, num_keys))
        found.append(Product(batch, num_queries, num_keys, inter))
    if block.instantiation == "dot_product":
        found.append(Product(batch, inter, num_keys, inter))
        found.append(Product(batch, num_queries, inter, inter))
    if block.instantiation in ("embedded_gaussian", "dot_product"):
        found.append(Product(batch, num_queries, channels, inter))
        found.append(Product(batch, projected, channels, inter))
    if block.instantiation == "concatenation" and block.sub_sample == "after":
        found.append(Product(batch, num_queries, channels, inter))
    return found


def bare_products(
    block: NonLocalNd, shape: tuple[int, ...], *, backward: bool, device: str, dtype: torch.dtype
) -> Callable[[], None]:
    """Return a function that computes the block's products on contiguous operands, and nothing else.

    Args:
        block: Says which products; its weights are not used.
        shape: The input's shape, (B, C, sides).
        backward: Add the two products that each product's gradients are.
        device: Where.
        dtype: The operands' type.
    """
    runs = [_prepare(product, backward, device, dtype) for product in products(block, shape)]

    def compute() -> None:
        for run in runs:
            run()

    return compute


def _prepare(product: Product, backward: bool, device: str, dtype: torch.dtype) -> Callable[[], None]:
    widest = max(product.columns, product.inner)
    rows = min(product.rows, max(1, _PART_NUMBERS // (product.batch * widest)))
    # Parts of one size; the last is what remains. All parts use the same operands.
    whole, rest = divmod(product.rows, rows)
    sizes = [rows] * whole + ([rest] if rest else [])
    left = torch.rand(product.batch, rows, product.inner, device=device, dtype=dtype)
    right = torch.rand(product.batch, product.inner, product.columns, device=device, dtype=dtype)
    out = torch.rand(product.batch, rows, product.columns, device=device, dtype=dtype)
    gradient = torch.rand_like(out) if backward else None
    d_left = torch.empty_like(left) if backward else None
    d_right = torch.empty_like(right) if backward else None

    def compute() -> None:
        for size in sizes:
            torch.bmm(left[:, :size], right, out=out[:, :size])
            if gradient is None or d_left is None or d_right is None:
                continue
            torch.bmm(gradient[:, :size], right.transpose(1, 2), out=d_left[:, :size])
            torch.bmm(left[:, :size].transpose(1, 2), gradient[:, :size], out=d_right)

    return compute
