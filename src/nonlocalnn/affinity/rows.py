"""The affinity of one block for one run as numbers: rows of it when they are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn.affinity.grids import PositionGrid, Sides, check_position
from nonlocalnn.affinity.regions import Regions
from nonlocalnn.functional import Instantiation, affinity
from nonlocalnn.functional.geometry import Extent, Geometry

# Weights that are computed at a time where a whole map is gone through: 16 MiB in float32.
_CHUNK = 2**22

Query = Sequence[int]
Weigh = Callable[[Tensor, int], Tensor]


# A map of 50,176 queries and 12,544 keys takes 2.3 GiB, and what it is computed from 30 MiB.
@dataclass(frozen=True, eq=False)
class AffinityRows:
    r"""The affinity f(x_i, x_j) / C(x) of one block for one run of its model.

    It holds what the affinity is computed from and computes rows of it when they are asked for, so that a
    map of 50,000 positions can be looked at without a tensor of N x M numbers.

    Queries are places in ``grid.sides``, keys in ``key_grid.sides``, counted over the whole clip. With an
    ``extent`` other than "spacetime" a query sees the keys of its own group only; others weigh 0.

    Args:
        instantiation: The block's pairwise function; only dot products can be negative.
        extent: Which positions see each other; see :class:`~nonlocalnn.NonLocal3d`.
        grid: The queries, and where they lie in the model's input.
        key_grid: The keys, and where they lie.
        theta: Embedded queries, (B, P, D), or (B, Q, D) where only ``queries`` were recorded; on the CPU.
        phi: Embedded keys, (B, groups, M, D).
        w_f: Weights of the concatenation form, (2D,).
        scale: Factor on the logits; None is 1.
        queries: The queries that were recorded, if not all.
        num_heads: The block's heads. Weights are their mean, unless a ``head`` is chosen.
        head: The number of one head; see :meth:`of_head`.
        key_mask: Which keys take part, (B, groups, M); None is all. The others weigh 0.
        input: What the model was given, (B, C, \*sides), on the CPU; None where that was no tensor.
        regions: Of a block in the heads of a detector, the regions that are its B samples; see
            :meth:`of_region`.
    """

    instantiation: Instantiation
    extent: Extent
    grid: PositionGrid
    key_grid: PositionGrid
    theta: Tensor
    phi: Tensor
    w_f: Tensor | None = None
    scale: float | None = None
    queries: tuple[Sides, ...] | None = None
    num_heads: int = 1
    head: int | None = None
    key_mask: Tensor | None = None
    input: Tensor | None = None
    regions: Regions | None = None

    @property
    def query_shape(self) -> Sides:
        """Sides of the queries of one group: (N,), (H, W) or (T, H, W)."""
        return Geometry(self.grid.sides, self.extent).group_sides

    @property
    def key_shape(self) -> Sides:
        """Sides of the keys of one group, whose product is M."""
        return Geometry(self.key_grid.sides, self.extent).group_sides

    @property
    def is_signed(self) -> bool:
        """Whether weights can be negative."""
        return self.instantiation == "dot_product"

    @property
    def affinity(self) -> Tensor:
        """The weights, (B, N, M); the groups of an ``extent`` follow one another, (B * groups, N, M).

        Where only some queries were recorded: (B, Q, keys of the whole clip).

        Memory:
            O(N M): ask :meth:`rows` for the queries that matter where this is too much.
        """
        if self.queries is not None:
            return self.rows(self.queries).flatten(2)
        by_group = Geometry(self.grid.sides, self.extent).group(self.theta)
        mask = None if self.key_mask is None else self.key_mask.flatten(0, 1)
        return self._over_heads(self._weights(by_group, self.phi.flatten(0, 1), mask))

    def of_head(self, head: int) -> Self:
        """Return the map of one head; what a block of several heads gives at first is their mean.

        Args:
            head: From 0.

        Raises:
            ValueError: There is no such head.
        """
        check_choice("head", head, tuple(range(self.num_heads)))
        return replace(self, head=head)

    def of_region(self, number: int) -> Self:
        """Return the map of one region of a detector, over the photograph in which it lies.

        Where the detector's heads look at what it found, as those of masks and of points do, region 0 is its
        first object, and so on.

        Args:
            number: From 0.

        Raises:
            ValueError: The block is in no head of a detector, or there is no such region.

        Example:
            >>> import torch
            >>> from nonlocalnn import capture_affinity, create_model
            >>> model = create_model("nl2head_keypointrcnn_tiny", num_classes=1).eval()
            >>> model.roi_heads.score_thresh = 0.0  # untrained, it is sure of nothing
            >>> with torch.no_grad(), capture_affinity(model) as maps:
            ...     found = model([torch.rand(3, 96, 128)])
            >>> shown = maps["roi_heads.keypoint_head.3.nl"].of_region(0)
            >>> shown.grid.sides, shown.grid.input_sides
            ((14, 14), (96, 128))
        """
        if self.regions is None:
            raise ValueError(
                "of_region is for blocks in the heads of detectors; this map lies over its input"
            )
        if not 0 <= number < len(self.regions):
            raise ValueError(
                f"region must be from 0 to {len(self.regions) - 1}; got {number}"
                if len(self.regions)
                else "there is no region: the detector found nothing"
            )
        one = slice(number, number + 1)
        return replace(
            self,
            grid=self.regions.placed(self.grid, number),
            key_grid=self.regions.placed(self.key_grid, number),
            theta=self.theta[one],
            phi=self.phi[one],
            key_mask=None if self.key_mask is None else self.key_mask[one],
            input=self.regions.photograph(number)[None],
            regions=None,
        )

    def of_query(self, *query: int) -> Tensor:
        r"""Return the weights over the keys of one query, (B, \*key_grid.sides).

        Args:
            query: The query's place in ``grid.sides``; negative numbers count from the end.

        Raises:
            ValueError: The place does not exist, or was not recorded.
        """
        return self.rows([query])[:, 0]

    def rows(self, queries: Sequence[Query]) -> Tensor:
        r"""Return the weights over the keys of some queries, (B, Q, \*key_grid.sides).

        Args:
            queries: Places in ``grid.sides``.

        Raises:
            ValueError: A place does not exist, or was not recorded.

        Memory:
            O(Q M).
        """
        return self.spread(queries, self.weigh)

    def top(self, queries: Sequence[Query], k: int) -> tuple[Tensor, Tensor]:
        """Return the keys with the largest weights (of either sign) of some queries.

        Args:
            queries: Places in ``grid.sides``.
            k: How many keys, at most as many as there are.

        Returns:
            Weights (B, Q, k), the largest first, and the places of their keys in ``key_grid.sides``,
            (B, Q, k, axes).

        Raises:
            ValueError: A place does not exist or was not recorded, or there are fewer than k keys.

        Memory:
            O(Q k), and 16 MiB or one row.
        """
        num_keys = math.prod(self.key_grid.sides)
        if not 1 <= k <= num_keys:
            raise ValueError(f"k must be from 1 to the number of keys, {num_keys}; got {k}")
        size = max(1, _CHUNK // (num_keys * max(1, self.theta.shape[0])))
        parts = []
        for start in range(0, len(queries), size):
            rows = self.rows(queries[start : start + size]).flatten(2)
            indices = rows.abs().topk(k, 2).indices
            parts.append((rows.gather(2, indices), indices))
        weights, indices = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return weights, torch.stack(torch.unravel_index(indices, self.key_grid.sides), -1)

    def all_queries(self) -> list[Sides]:
        """Return the places of all queries that were recorded."""
        if self.queries is not None:
            return list(self.queries)
        return list(itertools.product(*map(range, self.grid.sides)))

    def spread(self, queries: Sequence[Query], weigh: Weigh) -> Tensor:
        r"""Return (B, Q, \*key_grid.sides): what ``weigh`` gives for each group's queries, at its keys."""
        # Over the keys of the whole clip, so that pictures and pages need no special case for an extent.
        batch, num_keys = self.phi.shape[0], math.prod(self.key_grid.sides)
        dtype = torch.promote_types(self.phi.dtype, torch.float32)
        result = self.phi.new_zeros(batch, len(queries), num_keys, dtype=dtype)
        for numbers, places, number, keys in self.by_group(queries):
            result[:, numbers[:, None], keys] = weigh(places, number)
        return result.unflatten(2, self.key_grid.sides)

    def weigh(self, places: Tensor, number: int) -> Tensor:
        """Return the weights (B, q, M) of one group's keys for rows ``places`` of ``theta``."""
        return self._over_heads(self.weigh_heads(places, number))

    def weigh_heads(self, places: Tensor, number: int) -> Tensor:
        """Return the same for each head, (B, num_heads, q, M)."""
        mask = None if self.key_mask is None else self.key_mask[:, number]
        return self._weights(self.theta[:, places], self.phi[:, number], mask)

    def by_group(self, queries: Sequence[Query]) -> Iterator[tuple[Tensor, Tensor, int, Tensor]]:
        """Yield, a group after another and in parts that fit into memory, which of the queries see what.

        Yields:
            Numbers of the queries (q,), their rows of ``theta`` (q,), the number of their group, and the
            keys of that group, (M,), as indices into the flattened ``key_grid.sides``.

        Raises:
            ValueError: A place does not exist, or was not recorded.
        """
        flat = torch.tensor([self.flat(query) for query in queries], dtype=torch.long)
        rows = self._rows_of(flat)
        members = _members(self.grid.sides, self.extent)
        group_of = torch.empty(members.numel(), dtype=torch.long)
        group_of[members] = torch.arange(len(members))[:, None]
        keys = _members(self.key_grid.sides, self.extent)
        groups = group_of[flat]
        size = max(1, _CHUNK // (keys.shape[1] * self.num_heads * max(1, self.phi.shape[0])))
        for number in groups.unique().tolist():
            for numbers in (groups == number).nonzero()[:, 0].split(size):
                yield numbers, rows[numbers], number, keys[number]

    def flat(self, query: Query) -> int:
        """Return a query's place as an index into the flattened ``grid.sides``."""
        index = 0
        for place, side in zip(check_position(query, self.grid.sides), self.grid.sides, strict=True):
            index = index * side + place
        return index

    def _rows_of(self, flat: Tensor) -> Tensor:
        """Return the rows of ``theta`` that hold queries, which are given as flat indices."""
        if self.queries is None:
            return flat
        row_of = {self.flat(query): row for row, query in enumerate(self.queries)}
        for index in flat.tolist():
            if index not in row_of:
                place = tuple(int(part) for part in torch.unravel_index(torch.tensor(index), self.grid.sides))
                raise ValueError(f"query {place} was not recorded; those recorded are {list(self.queries)}")
        return torch.tensor([row_of[index] for index in flat.tolist()], dtype=torch.long)

    def _weights(self, theta: Tensor, phi: Tensor, mask: Tensor | None) -> Tensor:
        found = affinity(
            theta,
            phi,
            instantiation=self.instantiation,
            w_f=self.w_f,
            scale=self.scale,
            key_mask=mask,
            num_heads=self.num_heads,
        )
        return found if self.num_heads > 1 else found.unsqueeze(1)

    def _over_heads(self, weights: Tensor) -> Tensor:
        """Return the chosen head's weights, or the mean of all: the mean of one is that one."""
        if self.num_heads == 1 or self.head is not None:
            return weights[:, self.head or 0]
        return weights.mean(1)


def _members(sides: Sides, extent: Extent) -> Tensor:
    """Return the positions of each group, (groups, N), as indices into the flattened sides."""
    positions = torch.arange(math.prod(sides)).view(1, -1, 1)
    return Geometry(sides, extent).group(positions)[..., 0]
