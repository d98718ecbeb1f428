"""The picture of a table of an ablation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from nonlocalnn.affinity.pictures import Picture
from nonlocalnn.affinity.pictures.panels import new_figure


def draw_accuracies(
    scores: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, score: str = "accuracy"
) -> None:
    """Draw the score of each variant, a row each: a point a seed, and their mean, to a PNG or SVG file.

    Args:
        scores: For each variant, from the top down, the scores of its seeds, 0 to 1.
        path: The file; an existing one is replaced.
        score: What the scores are.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(7.0, 0.36 * len(scores) + 1.3)
    axis = figure.subplots()
    for row, values in enumerate(scores.values()):
        # Shapes differ as well as colours, and both colours are told apart by colour-blind people.
        axis.plot(
            [100 * value for value in values],
            [row] * len(values),
            "o",
            color="#0072b2",
            alpha=0.6,
            label="one seed" if row == 0 else None,
        )
        axis.plot(
            100 * sum(values) / len(values),
            row,
            "|",
            color="#d55e00",
            markersize=18,
            markeredgewidth=2.5,
            label="mean" if row == 0 else None,
        )
    axis.set_yticks(range(len(scores)), list(scores))
    # A fixed half row at both ends; the first variant on top.
    axis.set_ylim(len(scores) - 0.4, -0.6)
    axis.set_xlabel(f"test {score}, %")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    Picture(figure).save(path)
