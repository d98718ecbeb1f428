"""Pictures in files: affinity maps over the input they belong to, and confusion matrices."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from nonlocalnn.affinity import AffinityMap
from nonlocalnn.affinity.grids import Sides
from nonlocalnn.affinity.pictures import Picture, draw_rows, queries_to_draw
from nonlocalnn.affinity.pictures.panels import new_figure
from nonlocalnn.affinity.rows import Query


def draw_affinity(
    pixels: Tensor,
    shown: AffinityMap,
    path: str | os.PathLike[str],
    *,
    queries: Sequence[Query] | None = None,
    title: str = "",
) -> list[Sides]:
    r"""Draw what chosen positions attend to, over the input, to a file.

    See :func:`~nonlocalnn.affinity.pictures.draw_rows` for what is drawn of images, clips and sequences.

    Args:
        pixels: The input as it looks, (C, \*input sides), in [0, 1].
        shown: A block's map for this one input.
        path: The file, a PNG or SVG by its ending; an existing one is replaced.
        queries: Places in ``shown.grid.sides``; None chooses four with detail.
        title: Written above.

    Returns:
        The queries that were drawn.

    Raises:
        ValueError: The map is of a batch of several, a query does not exist, the pixels are not those of the
            map's input, or the file's ending is another.
        ImportError: matplotlib is missing.
    """
    check_single(shown)
    places = queries_to_draw(shown, pixels) if queries is None else [tuple(query) for query in queries]
    Picture(draw_rows(shown, pixels, queries=places, title=title)).save(path)
    return places


def check_single(shown: AffinityMap) -> None:
    """Check that a map is of one input.

    Raises:
        ValueError: It is of a batch of several.
    """
    batch = shown.phi.shape[0]
    if batch != 1:
        raise ValueError(f"the map must be of one input; got a batch of {batch}: run the model on one")


def draw_confusion(confusion: Tensor, classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draw a confusion matrix to a PNG or SVG file, each row coloured by its share of the row.

    Args:
        confusion: Counts, (K, K); a row is a true class, a column a predicted one.
        classes: K names.
        path: The file; an existing one is replaced.

    Raises:
        ImportError: matplotlib is missing.
    """
    side = max(4.0, 0.42 * len(classes) + 1.5)
    figure = new_figure(side + 1.8, side)
    axis = figure.subplots()
    share = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    picture = axis.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, fraction=0.046, label="share of the true class")
    axis.set_xticks(
        range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 3 else 0, fontsize=8
    )
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if len(classes) <= 30:
        for row, column in confusion.nonzero().tolist():
            dark = bool(share[row, column] > 0.5)
            count = str(int(confusion[row, column]))
            colour = "white" if dark else "black"
            axis.text(column, row, count, ha="center", va="center", fontsize=7, color=colour)
    Picture(figure).save(path)
