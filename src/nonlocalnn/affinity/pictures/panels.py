"""Parts of pictures of maps: pixels, weights where their keys lie, and marks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nonlocalnn._errors import missing_extra
from nonlocalnn.affinity.grids import PositionGrid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUERY_COLOUR = "#39ff14"
# Inches: bars that are lower have no room for words.
LOW = 1.0
# Enough of the picture is seen through the heat to tell what is attended.
_HEAT_ALPHA = 0.6
# Inches that a letter is wide, a point of its size.
_LETTER_WIDTH = 0.0078
_TITLE_SIZE = 9
_BAR_WIDTH = 0.1


@dataclass(frozen=True)
class Scale:
    """The colours of weights.

    Args:
        colours: The name of matplotlib's colour map.
        low: What the first colour stands for.
        high: What the last colour stands for.
        even: The weight of keys that are all alike; 0 where nothing weighs anything.
    """

    colours: str
    low: float
    high: float
    even: float = 0.0


def scale_of(weights: Tensor, *, signed: bool, even: float, least: float) -> Scale:
    """Return colours from 0 up; for weights with a sign, as far down as up, with 0 in the middle.

    The last colour is that of the largest weight, but never of less than what stands out: weights that are
    nearly alike must not look like a finding.

    Args:
        weights: Of any shape.
        signed: Whether they can be negative.
        even: The size that each would have if they were all alike.
        least: The size from which one stands out.

    Example:
        >>> scale_of(torch.tensor([0.25, -1.75]), signed=True, even=0.5, least=1.5)
        Scale(colours='RdBu_r', low=-1.75, high=1.75, even=0.5)
        >>> scale_of(torch.full((4,), 0.25), signed=False, even=0.25, least=0.75)
        Scale(colours='inferno', low=0.0, high=0.75, even=0.25)
    """
    top = max(float(weights.abs().max()), least) or 1.0
    # The concatenation form has no negative weights: half of a signed scale would stay empty.
    return Scale("RdBu_r", -top, top, even) if signed else Scale("inferno", 0.0, top, even)


def new_figure(width: float, height: float, *, title: str = "") -> Figure:
    """Return an empty figure, which arranges its parts itself.

    Args:
        width: In inches.
        height: In inches, the title not included.
        title: Written above, in as many lines as the width needs.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plots", "drawing") from None
    text = fitted(title, width - 0.3, _TITLE_SIZE)
    lines = text.count("\n") + 1 if text else 0
    figure = Figure(figsize=(width, height + 0.18 * lines), layout="constrained", dpi=120)
    if text:
        # Names of classes and files may hold dollar signs, which are no formulas.
        figure.suptitle(text, fontsize=_TITLE_SIZE, parse_math=False)
    return figure


def fitted(text: str, inches: float, size: float) -> str:
    """Return text broken into lines that are at most so long, in letters of a size in points."""
    return textwrap.fill(text, max(10, math.floor(inches / (_LETTER_WIDTH * size))))


def show_pixels(axis: Any, pixels: Tensor, input_sides: Sequence[int]) -> Any:
    """Show an image such that pixel p of the network's input lies between p and p + 1; return the layer.

    Args:
        axis: Where.
        pixels: (C, H, W) in [0, 1], of the input's size or in its own resolution and shape.
        input_sides: Sides of the input, the last two its height and width.
    """
    (height, width), own = input_sides[-2:], pixels.shape[1:]
    pixels = pixels.float().clamp(0, 1)
    image = pixels.permute(1, 2, 0) if pixels.shape[0] == 3 else pixels.mean(0)
    layer = axis.imshow(
        image.numpy(),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        # Few pixels stay the squares that they are; of a photograph that shrinks none is left out.
        interpolation="nearest" if max(own) <= 128 else "antialiased",
        # What the network sees stretched is shown in its own shape.
        aspect=(own[0] / own[1]) * (width / height),
    )
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return layer


def show_heat(axis: Any, heat: Tensor, grid: PositionGrid, scale: Scale) -> Any:
    """Lay the weights of keys, (h, w), over the image on ``axis``, each over its own box; return the layer.

    What lies in no key's box stays bare.
    """
    weights = heat.float()
    edges = []
    for axis_number in (-2, -1):
        start = grid.centres[axis_number] - grid.steps[axis_number] / 2
        end = start + grid.sides[axis_number] * grid.steps[axis_number]
        low, high = grid.reach(axis_number)
        # The boxes at the edges can be longer than the others: such a key is drawn once more beyond itself,
        # and the end of the axis cuts it.
        before, after = int(low < start), int(end < high)
        weights = _repeated(weights, axis_number, before, after)
        edges.append((start - before * grid.steps[axis_number], end + after * grid.steps[axis_number]))
    (top, bottom), (left, right) = edges
    layer = axis.imshow(
        weights.numpy(),
        cmap=scale.colours,
        vmin=scale.low,
        vmax=scale.high,
        # One number for all would be applied twice in SVG files, and to the colour bar.
        alpha=torch.full_like(weights, _HEAT_ALPHA).numpy(),
        interpolation="nearest",
        extent=(left, right, bottom, top),
        aspect=axis.get_aspect(),
    )
    height, width = grid.input_sides[-2:]
    axis.set(xlim=(0, width), ylim=(height, 0))
    return layer


def _repeated(weights: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Return weights with the first and the last along an axis so many times more."""
    numbers = torch.arange(-before, weights.shape[axis] + after).clamp(0, weights.shape[axis] - 1)
    return weights.index_select(axis, numbers)


def add_bar(figure: Figure, layer: Any, axes: Any, scale: Scale, label: str, *, inches: float) -> None:
    """Put a colour bar beside axes that are so many inches high."""
    bar = figure.colorbar(layer, ax=axes, fraction=0.046, pad=0.02, aspect=inches / _BAR_WIDTH)
    fill_bar(bar, scale, label, inches=inches)


def fill_bar(bar: Any, scale: Scale, label: str, *, inches: float) -> None:
    """Write beside a colour bar that is so many inches high: multiples of the even level, and its value."""
    values, names = even_ticks(scale)
    bar.set_ticks(values, labels=names)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=6.5)
    bar.set_label(fitted(label and f"{label}{even_words(scale)}", inches, 6.5), fontsize=6.5)


def even_words(scale: Scale) -> str:
    """Return what the ticks of :func:`even_ticks` count in, to follow a label."""
    return f"; 1x = {scale.even:.3g}, all keys alike" if scale.even else ""


def even_ticks(scale: Scale) -> tuple[list[float], list[str]]:
    """Return where a colour bar has its ticks, and what stands there: the even level, and the ends.

    Example:
        >>> even_ticks(Scale("inferno", 0.0, 0.75, 0.25))
        ([0.0, 0.25, 0.75], ['0', '1x', '3x'])
        >>> even_ticks(Scale("RdBu_r", -5.0, 5.0, 0.25))
        ([-5.0, 0.25, 5.0], ['-20x', '1x', '20x'])
    """
    if not scale.even:
        return [0.0], ["0"]
    values = [scale.low, scale.even, scale.high]
    # Near to each other two names would cover one another: of 0 and the even level the second says more.
    if scale.even < 0.1 * (scale.high - scale.low) and scale.low == 0:
        values = values[1:]
    return values, [f"{value / scale.even:.3g}x" if value else "0" for value in values]


def mark_box(
    axis: Any, box: Sequence[tuple[float, float]], number: str = "", *, of_this_frame: bool = True
) -> None:
    """Draw the outline of a query's box, ((top, bottom), (left, right)), and its number beside it.

    Args:
        axis: It shows the image.
        box: In pixels.
        number: What to write.
        of_this_frame: Whether the query lies in this frame; a dashed outline shows its place in others.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    (top, bottom), (left, right) = box
    # Light on dark stays visible on light and dark pictures.
    around = [withStroke(linewidth=2.2 if of_this_frame else 1.8, foreground="black")]
    axis.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=QUERY_COLOUR,
            linewidth=1.2 if of_this_frame else 0.9,
            linestyle="-" if of_this_frame else (0, (2, 2)),
            path_effects=around,
        )
    )
    if not number:
        return
    # The number stands towards the middle, where it is inside the picture.
    is_low = top + bottom > sum(axis.get_ylim())
    axis.annotate(
        number,
        ((left + right) / 2, top if is_low else bottom),
        xytext=(0, 2 if is_low else -2),
        textcoords="offset points",
        ha="center",
        va="bottom" if is_low else "top",
        color=QUERY_COLOUR,
        fontsize=9,
        fontweight="bold",
        path_effects=around,
    )


def heat_of_frame(weights: Tensor, grid: PositionGrid, frame: int) -> Tensor:
    """Return the weights (h, w) of the keys whose box in time holds a frame's centre; else NaN.

    Example:
        >>> grid = PositionGrid((2, 1, 1), (5, 8, 8), steps=(2.0, 8.0, 8.0), centres=(0.5, 4.0, 4.0))
        >>> weights = torch.tensor([0.25, 0.75]).view(2, 1, 1)
        >>> [heat_of_frame(weights, grid, frame).item() for frame in range(5)]
        [0.25, 0.75, 0.75, nan, nan]
    """
    low, high = grid.reach(0)
    if not low <= frame + 0.5 < high:
        return torch.full_like(weights[0], math.nan)
    place = math.floor((frame + 0.5 - grid.centres[0]) / grid.steps[0] + 0.5)
    return weights[min(max(place, 0), grid.sides[0] - 1)]


def frames_of(box: tuple[float, float], frames: Sequence[int]) -> list[int]:
    """Return which of some frames have their centre in a position's box in time; else the nearest one.

    Args:
        box: From when to when, in frames.
        frames: Those that are shown.

    Example:
        >>> frames_of((2.0, 4.0), range(8)), frames_of((2.0, 4.0), [0, 4, 9])
        ([2, 3], [4])
    """
    start, end = box
    inside = [frame for frame in frames if start <= frame + 0.5 < end]
    return inside or [min(frames, key=lambda frame: abs(frame + 0.5 - (start + end) / 2))]
