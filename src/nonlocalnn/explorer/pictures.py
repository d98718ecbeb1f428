"""Pictures: affinity maps over the image they belong to, confusion matrices, and ablations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn._errors import missing_extra
from nonlocalnn._files import atomic_path
from nonlocalnn.affinity import AffinityMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUERY_COLOUR = "#39ff14"


def choose_queries(
    image: Tensor, query_shape: tuple[int, int], num_queries: int = 4
) -> list[tuple[int, int]]:
    """Choose positions worth looking at: where the image changes most, far from one another.

    Args:
        image: (C, H, W), values in [0, 1].
        query_shape: Sides of the queries' map, (h, w).
        num_queries: How many, at most h * w.

    Returns:
        Places (row, column) in the map, the most detailed first.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> image[0, 5, 6] = 1.0
        >>> choose_queries(image, (4, 4), 1)
        [(2, 3)]
    """
    grey = image.mean(0, keepdim=True)
    mean = F.adaptive_avg_pool2d(grey, query_shape)
    # The spread within a position's own part of the image; the floor lets flat images have queries too.
    spread = (F.adaptive_avg_pool2d(grey.square(), query_shape) - mean.square()).clamp(min=0).sqrt()
    detail = spread.flatten() + 1e-3
    height, width = query_shape
    rows = torch.arange(height).repeat_interleave(width) / height
    columns = torch.arange(width).repeat(height) / width
    chosen: list[int] = []
    score = detail
    for _ in range(min(num_queries, height * width)):
        chosen.append(int(score.argmax()))
        distances = [(rows - rows[i]).square() + (columns - columns[i]).square() for i in chosen]
        score = detail * torch.stack(distances).amin(0)
    return [(index // width, index % width) for index in chosen]


def draw_affinity(
    image: Tensor,
    shown: AffinityMap,
    path: str | os.PathLike[str],
    *,
    queries: Sequence[tuple[int, int]] | None = None,
    title: str = "",
) -> list[tuple[int, int]]:
    """Draw what chosen positions of an image attend to, as heat over the image, to a PNG file.

    Weights of the two Gaussian forms and of the concatenation form are at least 0 and shown from 0 up;
    dot products have a sign and are shown on a scale with 0 in its middle. Each query has its own colour
    bar, since the weights of different queries can differ by orders of magnitude.

    Args:
        image: The input, (C, H, W) with 1 or 3 channels, values in [0, 1].
        shown: A block's map for this one input, with sides (h, w).
        path: The file; an existing one is replaced.
        queries: Places (row, column) in ``shown.query_shape``; None chooses four with detail.
        title: Written above.

    Returns:
        The queries that were drawn.

    Raises:
        ValueError: The map is not of one two-dimensional input, or a query does not exist.
        ImportError: matplotlib is missing.
    """
    if len(shown.query_shape) != 2 or shown.affinity.shape[0] != 1:
        raise ValueError(
            "draw_affinity takes the map of one image; got a batch of "
            f"{shown.affinity.shape[0]} with sides {shown.query_shape}"
        )
    height, width = shown.query_shape
    places = choose_queries(image, (height, width)) if queries is None else list(queries)
    weights = [shown.of_query(*place)[0] for place in places]
    figure = _figure(2.3 * (len(places) + 1) + 0.4, 1.9 * image.shape[1] / image.shape[2] + 0.7)
    axes = figure.subplots(1, len(places) + 1, squeeze=False)[0]
    _show_image(axes[0], image)
    axes[0].set_title("input, queries", fontsize=8)
    for number, (axis, place, heat) in enumerate(zip(axes[1:], places, weights, strict=True), 1):
        _show_image(axis, image)
        bar = _show_heat(axis, heat, image, signed=shown.instantiation == "dot_product")
        figure.colorbar(bar, ax=axis, fraction=0.046, pad=0.04).ax.tick_params(labelsize=6)
        for where in (axis, axes[0]):
            _mark(where, place, (height, width), image, str(number))
        axis.set_title(f"query {number}: row {place[0]}, column {place[1]}", fontsize=8)
    figure.suptitle(f"{title}  {_legend(shown)}".strip(), fontsize=9)
    _save(figure, path)
    return places


def draw_confusion(confusion: Tensor, classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draw a confusion matrix to a PNG file, each row coloured by its share of the row.

    Args:
        confusion: Counts, (K, K); a row is a true class, a column a predicted one.
        classes: K names.
        path: The file; an existing one is replaced.

    Raises:
        ImportError: matplotlib is missing.
    """
    side = max(4.0, 0.42 * len(classes) + 1.5)
    figure = _figure(side + 1.8, side)
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
    _save(figure, path)


def draw_ablation(scores: Mapping[str, Sequence[float]], path: str | os.PathLike[str]) -> None:
    """Draw the accuracy of each variant, a row each: a point a seed, and their mean, to a PNG file.

    Args:
        scores: For each variant, from the top down, the accuracies of its seeds, 0 to 1.
        path: The file; an existing one is replaced.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _figure(7.0, 0.36 * len(scores) + 1.3)
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
    axis.set_xlabel("test accuracy, %")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plots", "drawing") from None
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _show_image(axis: Any, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).clamp(0, 1)
    if pixels.shape[2] == 1:
        axis.imshow(pixels[..., 0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(pixels.numpy())
    axis.set_axis_off()


def _show_heat(axis: Any, heat: Tensor, image: Tensor, *, signed: bool) -> Any:
    """Lay the weights of the keys over the whole image, each key over its own part; return the layer."""
    top = float(heat.abs().max()) or 1.0
    # Pixel centres are whole numbers in matplotlib, so that an image begins at -0.5.
    extent = (-0.5, image.shape[2] - 0.5, image.shape[1] - 0.5, -0.5)
    scale = (
        {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
        if signed
        else {"cmap": "inferno", "vmin": 0, "vmax": top}
    )
    return axis.imshow(heat.numpy(), extent=extent, alpha=0.65, interpolation="nearest", **scale)


def _mark(axis: Any, place: tuple[int, int], shape: tuple[int, int], image: Tensor, text: str) -> None:
    row = (place[0] % shape[0] + 0.5) * image.shape[1] / shape[0] - 0.5
    column = (place[1] % shape[1] + 0.5) * image.shape[2] / shape[1] - 0.5
    axis.plot(column, row, marker="s", markersize=6, markeredgecolor=_QUERY_COLOUR, markerfacecolor="none")
    # The number stands towards the middle, where it is inside the picture.
    side = "left" if column < image.shape[2] / 2 else "right"
    offset = (5 if side == "left" else -5, -3)
    axis.annotate(
        text,
        (column, row),
        xytext=offset,
        textcoords="offset points",
        ha=side,
        color=_QUERY_COLOUR,
        fontsize=9,
    )


def _legend(shown: AffinityMap) -> str:
    meaning = {
        "gaussian": "share of the attention (a row sums to 1)",
        "embedded_gaussian": "share of the attention (a row sums to 1)",
        "dot_product": "signed weight, dot product / number of keys",
        "concatenation": "weight, ReLU / number of keys",
    }[shown.instantiation]
    return f"{shown.instantiation}: {meaning}; keys {' x '.join(map(str, shown.key_shape))}"
