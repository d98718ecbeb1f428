"""How non-local a block is: what is attended most, how widely, and how far away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nonlocalnn.affinity.evenness import entropy_of
from nonlocalnn.affinity.rows import AffinityRows, Query


@dataclass(frozen=True, eq=False)
class AffinitySummary:
    r"""Averages over queries, one number a sample of the batch.

    Weights enter as shares: |w_ij| over the sum of |w_ij| in its row, which are the weights themselves
    for the two Gaussian forms. Queries that weigh nothing at all count for nothing.

    Args:
        attended: Mean |w_ij| of each key over the queries, (B, \*key sides): what is attended most.
        entropy: Of the shares, over that of uniform attention, (B,): 0 is one key, 1 all keys alike; NaN
            where a query sees a single key.
        distance: Mean distance in space from a query to what it attends, (B,), in input pixels.
        uniform_distance: The same of uniform attention: what chance gives.
        distance_frames: Mean distance in time, (B,), in input frames; None for images and sequences.
        uniform_distance_frames: The same of uniform attention.
    """

    attended: Tensor
    entropy: Tensor
    distance: Tensor
    uniform_distance: Tensor
    distance_frames: Tensor | None
    uniform_distance_frames: Tensor | None

    def as_numbers(self) -> dict[str, float | None]:
        """Return the means over the batch by name, as in JSON; None for what there is not."""
        named = {
            "entropy": self.entropy,
            "distance_pixels": self.distance,
            "uniform_distance_pixels": self.uniform_distance,
            "distance_frames": self.distance_frames,
            "uniform_distance_frames": self.uniform_distance_frames,
        }
        means = {name: None if value is None else float(value.mean()) for name, value in named.items()}
        return {name: None if value != value else value for name, value in means.items()}


def summarise(shown: AffinityRows, *, queries: Sequence[Query] | None = None) -> AffinitySummary:
    """Return averages of a map over its queries.

    Distances are between the centres of the positions in the input. A sequence's are along it.

    Args:
        shown: The map of a block.
        queries: Over these only; None is all that were recorded.

    Memory:
        16 MiB, or a row; no N x M tensor.

    Example:
        >>> from nonlocalnn import capture_affinity, create_model
        >>> model = create_model("nl_digits").eval()
        >>> with capture_affinity(model) as maps:
        ...     _ = model(torch.rand(2, 1, 28, 28))
        >>> summary = summarise(maps["nl_1"])
        >>> summary.attended.shape, summary.entropy.shape
        (torch.Size([2, 7, 7]), torch.Size([2]))
    """
    places = shown.all_queries() if queries is None else list(queries)
    batch = shown.phi.shape[0]
    attended = torch.zeros(batch, math.prod(shown.key_grid.sides))
    is_video = len(shown.grid.sides) == 3
    from_query = _centres(shown.grid.axis_centres())
    to_key = _centres(shown.key_grid.axis_centres())
    flat = torch.tensor([shown.flat(place) for place in places])
    totals = {name: torch.zeros(batch) for name in ("entropy", "space", "time", "counted")}
    uniform = {"space": 0.0, "time": 0.0}
    for numbers, rows, group, keys in shown.by_group(places):
        weights = shown.weigh(rows, group).float()
        attended[:, keys] += weights.abs().sum(1) / len(places)
        sums = weights.abs().sum(2, keepdim=True)
        shares = weights.abs() / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        totals["counted"] += (sums > 0).sum((1, 2))
        # Queries that weigh nothing have none; those of a single key make it NaN.
        totals["entropy"] += torch.where(sums[..., 0] > 0, entropy_of(weights, len(keys)), 0.0).sum(1)
        difference = (from_query[flat[numbers]][:, None] - to_key[keys]).abs()
        parts = {"space": difference[..., 1:] if is_video else difference}
        if is_video:
            parts["time"] = difference[..., :1]
        for name, part in parts.items():
            distance = part.square().sum(2).sqrt()
            totals[name] += (shares * distance).sum((1, 2))
            uniform[name] += float(distance.mean(1).sum()) / len(places)
    counted = totals["counted"]
    return AffinitySummary(
        attended=attended.unflatten(1, shown.key_grid.sides),
        entropy=totals["entropy"] / counted,
        distance=totals["space"] / counted,
        uniform_distance=torch.full((batch,), uniform["space"]),
        distance_frames=totals["time"] / counted if is_video else None,
        uniform_distance_frames=torch.full((batch,), uniform["time"]) if is_video else None,
    )


def _centres(axes: Sequence[Tensor]) -> Tensor:
    """Return the centre of every position of a map, (P, axes), the last axis fastest."""
    return torch.cartesian_prod(*axes).view(-1, len(axes))
