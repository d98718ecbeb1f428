"""The picture of a table of an ablation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from benchmarks.ablation.intervals import interval
from nonlocalnn.affinity.pictures import Picture
from nonlocalnn.affinity.pictures.panels import new_figure


def draw_accuracies(
    scores: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, score: str = "accuracy"
) -> None:
    """Draw the score of each variant, a row each: a point a seed, their mean and its interval of 95 %.

    Args:
        scores: For each variant, from the top down, the scores of its seeds, 0 to 1.
        path: The PNG or SVG file; an existing one is replaced.
        score: What the scores are.

    Raises:
        ImportError: matplotlib is missing.
    """
    percent = {name: [100 * value for value in values] for name, values in scores.items()}
    draw_points(percent, path, label=f"test {score}, %", each="one seed")


def draw_points(
    rows: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, label: str, each: str
) -> None:
    """Draw a row of points for each name, and where there are several their mean, to a PNG or SVG file.

    Of seeds, whose numbers are percentages, it has its interval of 95 %.

    Args:
        rows: The numbers of each row, from the top down; at least one a row.
        path: The file; an existing one is replaced.
        label: What the numbers are, with their unit.
        each: What one point is, such as "one seed".

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(7.0, 0.36 * len(rows) + 1.3)
    axis = figure.subplots()
    for row, values in enumerate(rows.values()):
        # Shapes differ as well as colours, and both colours are told apart by colour-blind people.
        axis.plot(values, [row] * len(values), "o", color="#0072b2", alpha=0.6, label=each)
        if each == "one seed" and len(values) > 1:
            axis.plot(interval(values), [row] * 2, "-", color="#d55e00", label="95 % interval of the mean")
        if len(values) > 1 or each == "one seed":
            mean = sum(values) / len(values)
            axis.plot(mean, row, "|", color="#d55e00", label="mean", markersize=18, markeredgewidth=2.5)
    axis.set_yticks(range(len(rows)), list(rows))
    # A fixed half row at both ends; the first variant on top.
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    lines, names = axis.get_legend_handles_labels()
    named = dict(zip(names, lines, strict=True))
    figure.legend(named.values(), named, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    Picture(figure).save(path)
