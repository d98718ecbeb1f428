"""Maps over a volume: for each query the three planes through its voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nonlocalnn.affinity.grids import PositionGrid
from nonlocalnn.affinity.pictures import panels
from nonlocalnn.affinity.pictures.views import View
from nonlocalnn.affinity.rows import AffinityRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL = 2.3
# What a plane along two of (slices, rows, columns) is called, by the axis that it is across.
_NAMES = ("axial", "coronal", "sagittal")
_PLAIN_NAMES = ("across the slices", "across the rows", "across the columns")
# Left and right edge of each plane, and its top and bottom: where the body lies.
_EDGES = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))


@dataclass(frozen=True)
class Planes:
    """Where the voxels of a volume lie, and whether the planes through them have names.

    Args:
        affine: Three rows of four numbers, from (slice, row, column, 1) to x, y and z in millimetres, which
            count towards the right, the front and the head.
        is_oriented: Whether the file tells how the body lies: slices then go to the head, rows to the back
            and columns to the left.
        has_spacing: Whether it tells millimetres.

    Example:
        >>> planes = Planes(((0, 0, 2, -4), (0, 2, 0, 0), (3, 0, 0, 1)))
        >>> planes.in_words((5, 1, 2))
        'slice 5, row 1, column 2 (x 0, y 2, z 16 mm)'
        >>> planes.spacing
        (3.0, 2.0, 2.0)
    """

    affine: tuple[tuple[float, ...], ...]
    is_oriented: bool = True
    has_spacing: bool = True

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from one slice to the next, from row to row and from column to column."""
        slices, rows, columns = torch.tensor(self.affine, dtype=torch.float64)[:, :3].norm(dim=0).tolist()
        return slices, rows, columns

    def millimetres(self, place: Sequence[float]) -> tuple[float, float, float]:
        """Return x, y and z of a place, (slice, row, column)."""
        x, y, z = (sum(a * b for a, b in zip(row, (*place, 1), strict=True)) for row in self.affine)
        return x, y, z

    def in_words(self, place: Sequence[int]) -> str:
        """Return a place in words, with millimetres where the file tells them."""
        words = "slice {}, row {}, column {}".format(*place)
        if not self.has_spacing:
            return words
        x, y, z = (f"{round(value, 1) + 0.0:g}" for value in self.millimetres(place))
        return f"{words} (x {x}, y {y}, z {z} mm)"

    def name(self, axis: int) -> str:
        """Return what the plane across an axis, 0 to 2, is called."""
        return (_NAMES if self.is_oriented else _PLAIN_NAMES)[axis]


def draw_planes(
    shown: AffinityRows, pixels: Tensor, views: Sequence[View], title: str, planes: Planes
) -> Figure:
    """Draw three planes for each view, through its query, or through the key that is attended most."""
    width = 3 * _PANEL + 1.4
    figure = panels.new_figure(width, (_PANEL + 0.35) * len(views) + 0.2, title=title)
    grid = figure.subplots(len(views), 3, squeeze=False)
    for view, axes in zip(views, grid, strict=True):
        scale = panels.scale_of(view.weights, signed=view.signed, even=view.even, least=view.least)
        voxel = _voxel_of(shown, view)
        for across, axis in enumerate(axes):
            layer = _draw_plane(shown, pixels, view, scale, across, voxel, axis, planes)
            _name_plane(axis, across, voxel, planes)
        panels.add_bar(figure, layer, list(axes), scale, view.label, inches=_PANEL)
        where = planes.in_words(voxel)
        what = "most attended by all" if view.query is None else f"query {view.number}"
        axes[0].set_ylabel(panels.fitted(f"{what}: {where}", _PANEL, 7), fontsize=7)
    return figure


def _voxel_of(shown: AffinityRows, view: View) -> tuple[int, ...]:
    """Return the voxel through which the planes of a view go."""
    if view.query is not None:
        return shown.grid.pixel(*view.query)
    place = torch.unravel_index(view.weights.abs().argmax(), view.weights.shape)
    return shown.key_grid.pixel(*(int(each) for each in place))


def _draw_plane(
    shown: AffinityRows,
    pixels: Tensor,
    view: View,
    scale: panels.Scale,
    across: int,
    voxel: Sequence[int],
    axis: Any,
    planes: Planes,
) -> Any:
    """Draw one plane with the heat of its keys, and the query's box where there is one; return the layer."""
    along = [each for each in range(3) if each != across]
    sides = [pixels.shape[1 + each] for each in along]
    panels.show_pixels(axis, pixels.select(1 + across, voxel[across]), sides)
    heat = _heat(view.weights, shown.key_grid, across, voxel[across])
    flat = PositionGrid(
        tuple(shown.key_grid.sides[each] for each in along),
        tuple(sides),
        steps=tuple(shown.key_grid.steps[each] for each in along),
        centres=tuple(shown.key_grid.centres[each] for each in along),
    )
    layer = panels.show_heat(axis, heat, flat, scale)
    steps = planes.spacing
    # In millimetres a plane keeps its shape, however thick the slices are.
    axis.set_aspect(steps[along[0]] / steps[along[1]])
    if across > 0 and planes.is_oriented:
        # The head is on top, where slices count upwards.
        axis.invert_yaxis()
    if view.query is not None:
        box = shown.grid.box(*view.query)
        panels.mark_box(axis, [box[each] for each in along], view.number)
    for weight, key in view.top:
        of_key = shown.key_grid.box(*key)
        low, high = of_key[across]
        if weight and low <= voxel[across] + 0.5 < high:
            (top, bottom), (left, right) = (of_key[each] for each in along)
            axis.plot(
                (left + right) / 2,
                (top + bottom) / 2,
                "o",
                markersize=2.5,
                color="white",
                markeredgecolor="black",
                markeredgewidth=0.5,
            )
    return layer


def _heat(weights: Tensor, grid: PositionGrid, across: int, voxel: int) -> Tensor:
    """Return the weights of the keys in whose box a plane lies; NaN where it is nobody's."""
    low, high = grid.reach(across)
    if not low <= voxel + 0.5 < high:
        return torch.full_like(weights.select(across, 0), float("nan"))
    place = int((voxel + 0.5 - grid.centres[across]) / grid.steps[across] + 0.5)
    return weights.select(across, min(max(place, 0), grid.sides[across] - 1))


def _name_plane(axis: Any, across: int, voxel: Sequence[int], planes: Planes) -> None:
    """Write which plane it is and where, and the sides of the body at its edges."""
    what = ("slice", "row", "column")[across]
    words = f"{planes.name(across)}, {what} {voxel[across]}"
    if planes.has_spacing:
        # Along the axis of the body that the plane is across; an oblique scan has none that is exact.
        letter = "zyx"[across]
        words += f" ({letter} {round(planes.millimetres(voxel)['xyz'.index(letter)], 1) + 0.0:g} mm)"
    axis.set_title(words, fontsize=7)
    if not planes.is_oriented:
        return
    left, right, top, bottom = _EDGES[across]
    for x, y, letter in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.96, top), (0.5, 0.04, bottom)):
        axis.text(
            x,
            y,
            letter,
            transform=axis.transAxes,
            ha="center",
            va="center",
            fontsize=6.5,
            color="white",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "black", "alpha": 0.5, "linewidth": 0},
        )
