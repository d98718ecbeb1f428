"""The affinity maps of a running model: what each position attends to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._errors import near_miss
from nonlocalnn.blocks import NonLocalNd


@dataclass(frozen=True)
class AffinityMap:
    """The affinity of one block for one input.

    Args:
        affinity: f / C(x), shape (B, N, M), float32 or float64, on the CPU. With an ``extent`` other than
            "spacetime" the groups of a clip follow one another: (B * groups, N, M).
        query_shape: Sides of the queries of one group, whose product is N: (N,), (H, W) or (T, H, W).
        key_shape: Sides of the keys of one group, whose product is M.
        instantiation: The block's pairwise function; only dot products can be negative.
    """

    affinity: Tensor
    query_shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    instantiation: str

    def of_query(self, *query: int) -> Tensor:
        """Return the weights over the keys of one query, shape (B, *key_shape).

        Args:
            query: The query's place in ``query_shape``; negative numbers count from the end.

        Raises:
            ValueError: The place does not exist.
        """
        inside = len(query) == len(self.query_shape) and all(
            -side <= place < side for place, side in zip(query, self.query_shape, strict=True)
        )
        if not inside:
            raise ValueError(f"query must be a place in {self.query_shape}; got {query}")
        index = 0
        for place, side in zip(query, self.query_shape, strict=True):
            index = index * side + place % side
        return self.affinity[:, index].unflatten(1, self.key_shape)


@contextmanager
def capture_affinity(
    model: nn.Module, blocks: Sequence[str] | None = None
) -> Iterator[Mapping[str, AffinityMap]]:
    """Record what each position attends to while the model runs.

    Each block's affinity is computed from the input it sees, next to its own forward pass, whose engine and
    output stay as they are. A second run replaces the maps of the first. No hook is left behind.

    Args:
        model: Any module that holds non-local blocks.
        blocks: Names of the blocks to record, as in ``model.named_modules()``; None is all.

    Yields:
        A mapping from block names to :class:`AffinityMap`, in the order in which the blocks ran; it can be
        read after the context has ended.

    Raises:
        ValueError: The model has no non-local block, or none of a name asked for.

    Memory:
        O(N M) a block, on the CPU.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits").eval()
        >>> with capture_affinity(model) as maps:
        ...     _ = model(torch.rand(1, 1, 28, 28))
        >>> maps["nl_1"].affinity.shape, maps["nl_1"].query_shape, maps["nl_1"].key_shape
        (torch.Size([1, 196, 49]), (14, 14), (7, 7))
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, NonLocalNd)}
    if not found:
        raise ValueError("the model has no non-local block, so that there is no affinity to record")
    for name in found if blocks is None else blocks:
        if name not in found:
            raise ValueError(
                f"the model has no non-local block {name!r}{near_miss(name, found)}; "
                f"it has {', '.join(found)}"
            )
    maps: dict[str, AffinityMap] = {}

    def record(name: str, block: NonLocalNd, x: Tensor) -> None:
        with torch.no_grad():
            affinity = block.affinity(x).cpu()
        sides = tuple(x.shape[2:])
        maps.pop(name, None)
        maps[name] = AffinityMap(
            affinity, block.group_sides(sides), block.group_sides(block.key_sides(sides)), block.instantiation
        )

    def hook_for(name: str) -> Any:
        return lambda block, inputs: record(name, block, inputs[0])

    handles = [
        found[name].register_forward_pre_hook(hook_for(name))
        for name in (found if blocks is None else blocks)
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
