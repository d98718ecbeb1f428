"""Maps over a sequence: its channels above, and the weights below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nonlocalnn.affinity.pictures import panels
from nonlocalnn.affinity.pictures.views import View
from nonlocalnn.affinity.rows import AffinityRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HIGH, _LOW = 9.0, 1.1, 0.8
# Apart for colour-blind people too; the channels' own colours are others.
_POSITIVE, _NEGATIVE, _QUERY = "#d55e00", "#0072b2", "#117733"
_MOST_NAMED = 8


def draw_sequences(
    shown: AffinityRows,
    pixels: Tensor,
    views: Sequence[View],
    title: str,
    *,
    rate: float | None = None,
    channel_names: Sequence[str] = (),
) -> Figure:
    """Draw two lines of axes for each view: channels shaded by weight, and the weights as stairs.

    Args:
        shown: The map of a block.
        pixels: The channels, (C, L).
        views: Whose weights are drawn.
        title: Written above.
        rate: Steps a second: times are then in seconds.
        channel_names: What the channels are called; by default numbers.
    """
    figure = panels.new_figure(_WIDTH, (_HIGH + _LOW + 0.35) * len(views) + 0.5, title=title)
    axes = figure.subplots(
        2 * len(views),
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [_HIGH, _LOW] * len(views)},
    )[:, 0]
    edges = _edges(shown)
    for view, above, below in zip(views, axes[::2], axes[1::2], strict=True):
        scale = panels.scale_of(view.weights, signed=view.signed, even=view.even, least=view.least)
        draw_channels(above, pixels, channel_names)
        _shade(above, view, edges, scale)
        _draw_steps(below, view, edges, scale)
        if view.query is None:
            above.set_title("attended by all queries", fontsize=8, loc="left")
            continue
        ((start, end),) = shown.grid.box(*view.query)
        for axis in (above, below):
            axis.axvspan(start, end, facecolor=_QUERY, alpha=0.45, edgecolor=_QUERY, linewidth=1.2, zorder=4)
        step = shown.grid.pixel(*view.query)[0]
        above.set_title(
            f"query {view.number}: step {step}" + ("" if rate is None else f", {step / rate:.4g} s"),
            fontsize=8,
            loc="left",
            color=_QUERY,
        )
    axes[-1].set_xlim(0, pixels.shape[1])
    label_time(axes[-1], rate)
    name_channels(figure, axes[0])
    return figure


def _edges(shown: AffinityRows) -> Tensor:
    """Return where the boxes of the keys begin and end in the input, (M + 1,)."""
    grid = shown.key_grid
    edges = grid.centres[0] + grid.steps[0] * (torch.arange(grid.sides[0] + 1) - 0.5)
    low, high = grid.reach(0)
    edges[0], edges[-1] = low, high
    return edges.clamp(low, high)


def label_time(axis: Any, rate: float | None) -> None:
    """Write below the lowest axes when it is, in steps or with a rate in seconds."""
    if rate is None:
        axis.set_xlabel("step of the input", fontsize=8)
        return
    # An axis of its own has its ticks at round seconds; what is drawn stays in steps.
    axis.tick_params(labelbottom=False)
    seconds = axis.secondary_xaxis(
        "bottom", functions=(lambda step: step / rate, lambda second: second * rate)
    )
    seconds.set_xlabel("seconds", fontsize=8)
    seconds.tick_params(labelsize=6.5)


def draw_channels(axis: Any, pixels: Tensor, names: Sequence[str] = ()) -> None:
    """Draw the channels of a sequence, (C, L), as lines, by their names or their numbers."""
    # A value lies in the middle of its place, which goes from n to n + 1.
    places = torch.arange(pixels.shape[1]) + 0.5
    for number, channel in enumerate(pixels.float()):
        # An underscore would hide a line from the legend.
        name = f"channel {number}" if not names else names[number].lstrip("_") or f"channel {number}"
        axis.plot(places.numpy(), channel.numpy(), linewidth=0.8, label=name, zorder=3)
    axis.set_ylabel("input", fontsize=7)
    axis.tick_params(labelsize=6.5)


def name_channels(figure: Figure, axis: Any) -> None:
    """Name the lines of :func:`draw_channels` below a figure, unless they are too many."""
    lines, names = axis.get_legend_handles_labels()
    if len(names) <= _MOST_NAMED:
        legend = figure.legend(
            lines, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=7
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _shade(axis: Any, view: View, edges: Tensor, scale: panels.Scale) -> None:
    """Colour the ground behind the channels, the stronger the more a key weighs."""
    from matplotlib.colors import to_rgb

    shares = view.weights.float() / scale.high
    colours = torch.empty(1, len(shares), 4)
    colours[:, :, :3] = torch.where(
        (shares > 0)[:, None], torch.tensor(to_rgb(_POSITIVE)), torch.tensor(to_rgb(_NEGATIVE))
    )
    colours[:, :, 3] = 0.7 * shares.abs()
    bottom, top = axis.get_ylim()
    # pcolormesh, since the first and the last box may be cut by the input's ends.
    axis.pcolormesh(edges.numpy(), [bottom, top], colours.numpy())


def _draw_steps(axis: Any, view: View, edges: Tensor, scale: panels.Scale) -> None:
    weights = view.weights.float()
    for part, colour in ((weights.clamp(min=0), _POSITIVE), (weights.clamp(max=0), _NEGATIVE)):
        if bool(part.any()):
            axis.stairs(part.numpy(), edges.numpy(), fill=True, color=colour, zorder=2)
    axis.axhline(0, color="black", linewidth=0.6, zorder=2)
    axis.axhline(scale.even, color="black", linewidth=0.6, linestyle=":", zorder=3)
    axis.set_ylim(1.08 * scale.low, 1.08 * scale.high)
    values, names = panels.even_ticks(scale)
    axis.set_yticks(values, names)
    label = view.label + panels.even_words(scale)
    axis.set_ylabel(panels.fitted(label, _LOW + 0.6, 6.0), fontsize=6.0)
    axis.tick_params(labelsize=6.5)
