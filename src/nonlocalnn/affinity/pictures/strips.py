"""Maps over a clip: a strip of frames a query, with arrows to what it attends to most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nonlocalnn.affinity.pictures import panels
from nonlocalnn.affinity.pictures.views import View
from nonlocalnn.affinity.rows import AffinityRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FRAMES = 16


def draw_strips(shown: AffinityRows, pixels: Tensor, views: Sequence[View], title: str) -> Figure:
    """Draw a row of frames for each view: the heat on every frame, the query in its own, and arrows."""
    num_frames, height, width = pixels.shape[1:]
    frames = even_choice(num_frames)
    if len(frames) < num_frames:
        title += f"; {len(frames)} of {num_frames} frames"
    # 8 frames fill a wide screen; few frames are large, many small.
    panel = min(2.2, max(0.9, 11.0 / len(frames)))
    high = panel * min(max(height / width, 0.25), 3.0)
    # Words beside a low bar would take many lines.
    is_low = high < panels.LOW
    if is_low:
        title += f"; {views[0].label}"
    figure = panels.new_figure(
        (panel + 0.07) * len(frames) + 1.2, (high + 0.1) * len(views) + 0.25, title=title
    )
    grid = figure.subplots(len(views), len(frames), squeeze=False)
    for view, axes in zip(views, grid, strict=True):
        by_frame = dict(zip(frames, axes, strict=True))
        scale = panels.scale_of(view.weights, signed=view.signed, even=view.even, least=view.least)
        layer = _draw_strip(shown, pixels, view, by_frame, scale)
        panels.add_bar(figure, layer, list(axes), scale, "" if is_low else view.label, inches=high)
        if view.query is not None:
            frame, row, column = shown.grid.pixel(*view.query)
            axes[0].set_ylabel(f"query {view.number}: frame {frame},\nrow {row}, column {column}", fontsize=7)
            _draw_arrows(figure, shown, view, by_frame)
    for frame, axis in zip(frames, grid[-1], strict=True):
        axis.set_xlabel(f"frame {frame}", fontsize=8)
    return figure


def even_choice(num_frames: int) -> list[int]:
    """Return the frames that are shown of so many: all, or 16 at even distances, the last among them.

    Example:
        >>> even_choice(3), even_choice(31)[:3], even_choice(31)[-1]
        ([0, 1, 2], [0, 2, 4], 30)
    """
    if num_frames <= _MOST_FRAMES:
        return list(range(num_frames))
    return torch.linspace(0, num_frames - 1, _MOST_FRAMES).round().long().tolist()


def _draw_strip(
    shown: AffinityRows, pixels: Tensor, view: View, by_frame: Mapping[int, Any], scale: panels.Scale
) -> Any:
    """Draw the frames of one view and return a layer of its heat."""
    for frame, axis in by_frame.items():
        panels.show_pixels(axis, pixels[:, frame], shown.grid.input_sides)
        heat = panels.heat_of_frame(view.weights, shown.key_grid, frame)
        layer = panels.show_heat(axis, heat, shown.key_grid, scale)
    if view.query is not None:
        in_time, *in_space = shown.grid.box(*view.query)
        for frame in panels.frames_of(in_time, list(by_frame)):
            panels.mark_box(by_frame[frame], in_space)
    return layer


def _draw_arrows(figure: Figure, shown: AffinityRows, view: View, by_frame: Mapping[int, Any]) -> None:
    """Draw arrows from a query to the keys that stand out, the thicker the more these weigh."""
    from matplotlib.patches import ConnectionPatch
    from matplotlib.patheffects import withStroke

    assert view.query is not None
    frames = list(by_frame)
    start_frame, start = _shown_at(shown.grid.box(*view.query), frames)
    largest = max((abs(weight) for weight, _ in view.top), default=1.0)
    for weight, key in view.top:
        end_frame, end = _shown_at(shown.key_grid.box(*key), frames)
        by_frame[end_frame].plot(
            *end, "o", markersize=2.5, color="white", markeredgecolor="black", markeredgewidth=0.5
        )
        # An arrow to where it begins has no direction.
        if (start_frame, start) == (end_frame, end):
            continue
        thickness = 0.4 + 1.1 * abs(weight) / largest
        arrow = ConnectionPatch(
            xyA=start,
            xyB=end,
            coordsA=by_frame[start_frame].transData,
            coordsB=by_frame[end_frame].transData,
            arrowstyle="-|>",
            mutation_scale=7,
            shrinkA=2,
            shrinkB=2,
            linewidth=thickness,
            # Dots for weights below 0: a key that is attended, but pushed away.
            linestyle="-" if weight > 0 else ":",
            color=panels.QUERY_COLOUR,
            path_effects=[withStroke(linewidth=thickness + 0.7, foreground="black")],
        )
        arrow.set_in_layout(False)
        figure.add_artist(arrow)


def _shown_at(box: Sequence[tuple[float, float]], frames: Sequence[int]) -> tuple[int, tuple[float, float]]:
    """Return the frame in which a position is shown, and x and y of its middle there."""
    in_time, (top, bottom), (left, right) = box
    return panels.frames_of(in_time, frames)[0], ((left + right) / 2, (top + bottom) / 2)
