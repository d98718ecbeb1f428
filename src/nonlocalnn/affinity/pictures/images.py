"""Maps over an image: a panel a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from nonlocalnn.affinity.pictures import panels
from nonlocalnn.affinity.pictures.views import View
from nonlocalnn.affinity.rows import AffinityRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _MOST_COLUMNS = 2.1, 5


def draw_images(shown: AffinityRows, pixels: Tensor, views: Sequence[View], title: str) -> Figure:
    """Draw the image with its queries, then the heat of each view over it."""
    columns = min(len(views) + 1, _MOST_COLUMNS)
    rows = math.ceil((len(views) + 1) / columns)
    # Very long images get wide or high panels, but not without limit.
    height = _WIDTH * min(max(pixels.shape[1] / pixels.shape[2], 0.25), 3.0)
    sides = shown.grid.input_sides
    # Words beside a low bar would take many lines.
    is_low = height < panels.LOW
    if is_low:
        title += f"; {views[0].label}"
    figure = panels.new_figure((_WIDTH + 0.45) * columns + 0.3, (height + 0.3) * rows, title=title)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    panels.show_pixels(axes[0], pixels, sides)
    axes[0].set_title("input, queries" if views[0].query else "input", fontsize=8)
    for number, (axis, view) in enumerate(zip(axes[1:], views, strict=False), 1):
        panels.show_pixels(axis, pixels, sides)
        scale = panels.scale_of(view.weights, signed=view.signed, even=view.even, least=view.least)
        layer = panels.show_heat(axis, view.weights, shown.key_grid, scale)
        is_last = number == len(views) or number % columns == columns - 1
        label = view.label if is_last and not is_low else ""
        panels.add_bar(figure, layer, axis, scale, label, inches=height)
        if view.query is None:
            axis.set_title("attended by all queries", fontsize=8)
            continue
        for where in (axis, axes[0]):
            panels.mark_box(where, shown.grid.box(*view.query), view.number)
        row, column = shown.grid.pixel(*view.query)
        axis.set_title(f"query {view.number}: row {row}, column {column}", fontsize=8)
    for axis in axes[len(views) + 1 :]:
        axis.set_axis_off()
    return figure
