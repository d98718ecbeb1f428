"""Pictures of a sequence with the class of each of its steps: channels as lines over coloured ground."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nonlocalnn.affinity.pictures import Picture, panels
from nonlocalnn.affinity.pictures.sequences import draw_channels, label_time, name_channels
from nonlocalnn.explorer.labels import colours_of

_WIDTH, _HIGH, _ROW = 9.0, 2.2, 0.22


def runs_of(labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs of equal classes along a sequence, from its first step to its last.

    Example:
        >>> import torch
        >>> runs_of(torch.tensor([0, 0, 1]), ["rest", "walk"])
        [{'class': 'rest', 'first': 0, 'last': 1}, {'class': 'walk', 'first': 2, 'last': 2}]
    """
    values, lengths = labels.unique_consecutive(return_counts=True)
    ends = lengths.cumsum(0)
    return [
        {"class": classes[value], "first": end - length, "last": end - 1}
        for value, length, end in zip(values.tolist(), lengths.tolist(), ends.tolist(), strict=True)
    ]


def draw_steps(
    sequence: Tensor,
    labels: Tensor,
    *,
    classes: Sequence[str],
    title: str,
    rate: float | None = None,
    channel_names: Sequence[str] = (),
) -> Any:
    """Return a figure of a sequence, its ground in the colour of each step's class, and the classes below.

    Args:
        sequence: (C, L), as the network takes it.
        labels: The class of each step, (L,).
        classes: Their names.
        title: Written above.
        rate: Steps a second: times are then in seconds.
        channel_names: What the channels are called; by default numbers.

    Raises:
        ImportError: matplotlib is missing.
    """
    there = sorted(set(labels.tolist()))
    figure = panels.new_figure(_WIDTH, _HIGH + _ROW * len(there) + 0.6, title=title)
    above, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [_HIGH, _ROW * len(there) + 0.1]}
    )
    colours = colours_of(classes)
    draw_channels(above, sequence, channel_names)
    place_of = {classes[number]: row for row, number in enumerate(there)}
    colour_of = {name: tuple(part / 255 for part in colours[classes.index(name)]) for name in place_of}
    for run in runs_of(labels, classes):
        first, last, name = run["first"], run["last"] + 1, run["class"]
        above.axvspan(first, last, facecolor=colour_of[name], alpha=0.22, linewidth=0)
        below.barh(place_of[name], last - first, left=first, height=0.8, color=colour_of[name])
    names = [panels.fitted(classes[each], 1.2, 7.0) for each in there]
    below.set_yticks(range(len(there)), names, parse_math=False)
    below.invert_yaxis()
    below.set_xlim(0, sequence.shape[1])
    for axis in (above, below):
        axis.tick_params(labelsize=7)
    label_time(below, rate)
    name_channels(figure, above)
    return figure


def write_steps(
    sequence: Tensor,
    labels: Tensor,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    title: str,
    rate: float | None = None,
    channel_names: Sequence[str] = (),
) -> None:
    """Write the picture of :func:`draw_steps` as a PNG, whole or not at all."""
    drawn = draw_steps(sequence, labels, classes=classes, title=title, rate=rate, channel_names=channel_names)
    Picture(drawn).save(path)
