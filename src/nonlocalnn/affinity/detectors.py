"""Maps of detectors over the photograph: they bring it to a size and pad it before a block sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn.affinity.grids import PositionGrid, Sides
from nonlocalnn.affinity.maps import AffinityMap
from nonlocalnn.affinity.regions import Regions

# torchvision's, known by its name so that it need not be installed.
_TRANSFORM = "GeneralizedRCNNTransform"
# What cuts the regions of a head out of the maps: of box_head it is box_roi_pool. Only the boxes' own head
# looks at proposals in eval mode; the others look at what was found.
_POOL, _OF_PROPOSALS = "roi_pool", "box_"


@dataclass(frozen=True, eq=False)
class _Photographs:
    """What a detector was given, and what its backbone was: sizes are (height, width).

    Args:
        images: The photographs, (C, H, W) each, on the CPU.
        sizes: To which they were brought.
        canvas: To which they were padded.
        batch: The padded batch, on the CPU.
    """

    images: list[Tensor]
    sizes: list[Sides]
    canvas: Sides
    batch: Tensor


class PhotographTracer:
    """Notes, while a model runs, what the detectors in it were given, and at which regions they looked."""

    def __init__(self) -> None:
        self._seen: dict[str, _Photographs] = {}
        # Of each head, such as "roi_heads.keypoint_", the boxes on each image as it was brought to its size.
        self._boxes: dict[str, list[Tensor]] = {}

    @contextmanager
    def follow(self, model: nn.Module) -> Iterator[None]:
        """Look at the runs of ``model`` while the context lasts."""
        handles = []
        for name, module in model.named_modules():
            transform = module._modules.get("transform")
            if transform is None or _TRANSFORM not in {each.__name__ for each in type(transform).__mro__}:
                continue
            handles.append(transform.register_forward_hook(self._noting(name)))
            inside = f"{name}.roi_heads." if name else "roi_heads."
            for part, pool in model.named_modules():
                if part.startswith(inside) and part.endswith(_POOL):
                    handles.append(pool.register_forward_pre_hook(self._looking(part.removesuffix(_POOL))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, owner: str) -> Any:
        def note(_transform: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            padded = output[0]
            self._seen[owner] = _Photographs(
                [image.detach().cpu() for image in inputs[0]],
                [tuple(size) for size in padded.image_sizes],
                tuple(padded.tensors.shape[-2:]),
                padded.tensors.detach().cpu(),
            )

        return note

    def _looking(self, head: str) -> Any:
        def note(_pool: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._boxes[head] = [boxes.detach().cpu() for boxes in inputs[1]]

        return note

    def placed(self, name: str, shown: AffinityMap) -> AffinityMap:
        """Return a block's map with its positions where they lie in the photograph; others as they are.

        Of several images, which have sizes of their own, the input is the padded batch. The positions of a
        block that works on regions, as in a detector's heads, are counted in those of a region, and the map
        says where the regions lie.
        """
        owner = next(
            (each for each in self._seen if not each or name == each or name.startswith(f"{each}.")), None
        )
        if owner is None:
            return shown
        photographs, inside = self._seen[owner], name.removeprefix(f"{owner}." if owner else "")
        if not inside.startswith("backbone."):
            regions = self._regions(name, shown, photographs)
            grid, key_grid = _own_grids(shown)
            return replace(shown, grid=grid, key_grid=key_grid, input=None, regions=regions)
        if len(photographs.images) > 1:
            return replace(shown, input=photographs.batch)
        return _over_photograph(shown, photographs)

    def _regions(self, name: str, shown: AffinityMap, photographs: _Photographs) -> Regions | None:
        """Return the regions that are a block's samples; None where its head did not get them so."""
        head = next((each for each in self._boxes if name.startswith(each)), None)
        if head is None or sum(map(len, self._boxes[head])) != len(shown.phi):
            return None
        scaled, numbers = [], []
        for number, boxes in enumerate(self._boxes[head]):
            height, width = (
                own / size
                for own, size in zip(
                    photographs.images[number].shape[-2:], photographs.sizes[number], strict=True
                )
            )
            scaled.append(boxes * boxes.new_tensor([width, height, width, height]))
            numbers += [number] * len(boxes)
        return Regions(
            torch.cat(scaled), photographs.images, numbers, are_objects=not head.endswith(_OF_PROPOSALS)
        )


def _own_grids(shown: AffinityMap) -> tuple[PositionGrid, PositionGrid]:
    """Return the grids of a map's queries and keys, counted in its own queries instead of the input's."""
    sides = shown.grid.sides
    both = zip(shown.grid.steps, shown.grid.centres, strict=True)
    keys = zip(both, shown.key_grid.steps, shown.key_grid.centres, strict=True)
    placed = [(wide / step, 0.5 + (middle - first) / step) for (step, first), wide, middle in keys]
    return (
        PositionGrid(sides, sides, steps=(1.0,) * len(sides), centres=(0.5,) * len(sides)),
        PositionGrid(
            shown.key_grid.sides,
            sides,
            steps=tuple(step for step, _ in placed),
            centres=tuple(centre for _, centre in placed),
        ),
    )


def _over_photograph(shown: AffinityMap, photographs: _Photographs) -> AffinityMap:
    (image,), (size,), canvas = photographs.images, photographs.sizes, photographs.canvas
    own = tuple(image.shape[-2:])
    # As real_positions counts: what has seen anything of the photograph is its.
    kept = tuple(
        -(-side * real // whole) for side, real, whole in zip(shown.grid.sides, size, canvas, strict=True)
    )
    key_sides, phi, mask = shown.key_grid.sides, shown.phi, shown.key_mask
    if mask is not None:
        # Keys on padding weigh nothing, so that the others are the whole row.
        there = mask.view(key_sides)
        key_kept = (int(there.any(1).sum()), int(there.any(0).sum()))
        phi = phi.unflatten(2, key_sides)[:, :, : key_kept[0], : key_kept[1]].flatten(2, 3)
        mask, key_sides = None, key_kept
    theta = shown.theta
    if shown.queries is None:
        theta = theta.unflatten(1, shown.grid.sides)[:, : kept[0], : kept[1]].flatten(1, 2)
    else:
        kept = shown.grid.sides
    return replace(
        shown,
        grid=_scaled(shown.grid, kept, own, size),
        key_grid=_scaled(shown.key_grid, key_sides, own, size),
        theta=theta,
        phi=phi,
        key_mask=mask,
        input=image[None],
    )


def _scaled(grid: PositionGrid, sides: Sides, own: Sides, size: Sides) -> PositionGrid:
    """Return a grid over the photograph, of the first positions of one over what it was brought to."""
    factors = [real / scaled for real, scaled in zip(own, size, strict=True)]
    return PositionGrid(
        sides,
        own,
        steps=tuple(step * factor for step, factor in zip(grid.steps, factors, strict=True)),
        centres=tuple(centre * factor for centre, factor in zip(grid.centres, factors, strict=True)),
    )
