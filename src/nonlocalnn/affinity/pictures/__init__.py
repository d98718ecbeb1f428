"""Pictures of maps: what chosen positions attend to, over the input that the map belongs to."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn._errors import check_choice
from nonlocalnn._files import atomic_path
from nonlocalnn.affinity.evenness import entropy_of, even_level, evenly_in_words, stands_out
from nonlocalnn.affinity.grids import Sides, check_position
from nonlocalnn.affinity.pictures.images import draw_images
from nonlocalnn.affinity.pictures.planes import Planes, draw_planes
from nonlocalnn.affinity.pictures.sequences import draw_sequences
from nonlocalnn.affinity.pictures.strips import draw_strips
from nonlocalnn.affinity.pictures.views import View, meaning
from nonlocalnn.affinity.rows import AffinityRows, Query
from nonlocalnn.affinity.summary import AffinitySummary, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".svg")
_NUM_ARROWS = 5
_POOLS: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def choose_queries(pixels: Tensor, sides: Sides, num_queries: int = 4) -> list[Sides]:
    r"""Choose positions worth looking at: where the input changes most, far from one another.

    Args:
        pixels: (C, \*input sides), values in [0, 1].
        sides: Sides of the queries' map: (n,), (h, w) or (t, h, w).
        num_queries: How many; there are at most as many as positions.

    Returns:
        Places in the map, the most detailed first.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> image[0, 5, 6] = 1.0
        >>> choose_queries(image, (4, 4), 1)
        [(2, 3)]
    """
    pool = _POOLS[len(sides)]
    grey = pixels.float().mean(0, keepdim=True)
    # The spread within a position's own part of the input; the floor lets flat inputs have queries too.
    spread = (pool(grey.square(), sides) - pool(grey, sides).square()).clamp(min=0).sqrt()
    detail = spread.flatten() + 1e-3
    places = torch.cartesian_prod(*(torch.arange(side) / side for side in sides)).view(-1, len(sides))
    chosen: list[int] = []
    score = detail
    for _ in range(min(num_queries, detail.numel())):
        chosen.append(int(score.argmax()))
        distances = (places[:, None] - places[chosen]).square().sum(2)
        score = detail * distances.amin(1)
    found = torch.stack(torch.unravel_index(torch.tensor(chosen, dtype=torch.long), sides), 1)
    return [tuple(place) for place in found.tolist()]


def queries_to_draw(shown: AffinityRows, pixels: Tensor) -> list[Sides]:
    """Return the queries of a picture for which none were named: four, of those that were recorded."""
    if shown.queries is not None:
        return list(shown.queries[:4])
    return choose_queries(pixels, shown.grid.sides)


def draw_rows(
    shown: AffinityRows,
    pixels: Tensor | None = None,
    *,
    picture: Tensor | None = None,
    queries: Sequence[Query] | None = None,
    sample: int = 0,
    title: str = "",
    rate: float | None = None,
    channel_names: Sequence[str] = (),
    planes: Planes | None = None,
) -> Figure:
    r"""Draw what chosen positions attend to, over the input.

    An image: the heat of each query's weights over it. A clip: a strip of its frames for each query, with
    arrows to the keys that stand out, as in figure 3 of the paper; of a clip with more than 16 frames,
    16 at even distances. A volume: the three planes through each query's voxel. A sequence: its channels,
    shaded where they are attended, above the weights.

    Weights are shown as multiples of the **even level**, the mean size of the row's weights (1 / M where
    rows sum to 1): were all keys alike, each would be at 1x. The colours go to the largest weight, but at
    least to 3x; the arrows, five at most, lead to keys at 3x and above, see
    :func:`~nonlocalnn.affinity.evenness.stands_out`. The title says when these rows are nearly even.

    Weights lie where their keys do. Dot products have a sign, and colours with 0 in their middle. Each query
    has a scale of its own, since the weights of different queries can differ by orders of magnitude.

    Args:
        shown: The map of a block.
        pixels: The input as it looks, (C, \*input sides), in [0, 1], in colour if C is 3, else grey; None is
            the input that was recorded, from its smallest value to its largest.
        picture: The same image or clip in its own resolution, drawn in place of ``pixels``.
        queries: Places in ``shown.grid.sides``; None chooses four with detail.
        sample: Which one of the batch.
        title: Written above.
        rate: Of a sequence, its steps a second: times are then in seconds.
        channel_names: Of a sequence, what its channels are called in the legend; by default numbers.
        planes: Of a volume, where its voxels lie; without it three sides are those of a clip.

    Raises:
        ValueError: A query or the sample does not exist, there is no query, or the pixels or the picture
            are not those of the map's input.
        ImportError: matplotlib is missing.

    Memory: O(Q M).

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, figure 3.

    Example:
        >>> from nonlocalnn import capture_affinity, create_model
        >>> model = create_model("nl_digits").eval()
        >>> with capture_affinity(model) as maps:
        ...     _ = model(torch.rand(1, 1, 28, 28))
        >>> figure = draw_rows(maps["nl_1"], queries=[(3, 4)])
        >>> [axis.get_title() for axis in figure.axes[:2]]
        ['input, queries', 'query 1: row 7, column 9']
    """
    pixels = _pixels_of(shown, pixels, sample)
    chosen = queries_to_draw(shown, pixels) if queries is None else queries
    places = [check_position(place, shown.grid.sides) for place in chosen]
    if not places:
        raise ValueError("queries must name at least one place, or be None; got none")
    rows = shown.rows(places)[sample]
    views = _views(shown, places, rows, sample)
    entropy = float(entropy_of(rows.flatten(1), math.prod(shown.key_shape)).nanmean())
    drawn = pixels if picture is None else check_picture(picture, pixels)
    return _draw(
        shown, drawn, views, _titled(title, shown, entropy, len(places)), rate, channel_names, planes
    )


def _draw(
    shown: AffinityRows,
    drawn: Tensor,
    views: Sequence[View],
    title: str,
    rate: float | None,
    channel_names: Sequence[str],
    planes: Planes | None,
) -> Figure:
    num_sides = len(shown.grid.sides)
    if planes is not None:
        if num_sides != 3:
            raise ValueError("planes is of volumes, which have three sides: leave it out")
        return draw_planes(shown, drawn, views, title, planes)
    if num_sides == 1:
        return draw_sequences(shown, drawn, views, title, rate=rate, channel_names=channel_names)
    if rate is not None:
        raise ValueError("rate is a sequence's; images and clips have none: leave it out")
    if channel_names:
        raise ValueError("channel_names is of sequences; images and clips have none: leave it out")
    return (draw_images if num_sides == 2 else draw_strips)(shown, drawn, views, title)


def _views(shown: AffinityRows, places: Sequence[Sides], rows: Tensor, sample: int) -> list[View]:
    num_keys = math.prod(shown.key_shape)
    levels = even_level(rows.flatten(1), num_keys)
    least = (stands_out(num_keys) * levels).tolist()
    values, keys = (part[sample].tolist() for part in shown.top(places, min(_NUM_ARROWS, rows[0].numel())))
    return [
        View(
            weights=rows[number],
            signed=shown.is_signed,
            even=float(levels[number]),
            least=least[number],
            label=meaning(shown.instantiation),
            query=place,
            number=str(number + 1),
            # Of weights that are nearly alike five are always the largest, and say nothing.
            top=[
                (value, tuple(key))
                for value, key in zip(values[number], keys[number], strict=True)
                if value != 0 and abs(value) >= least[number]
            ],
        )
        for number, place in enumerate(places)
    ]


def draw_attended(
    shown: AffinityRows,
    pixels: Tensor | None = None,
    *,
    picture: Tensor | None = None,
    summary: AffinitySummary | None = None,
    sample: int = 0,
    title: str = "",
    rate: float | None = None,
    channel_names: Sequence[str] = (),
    planes: Planes | None = None,
) -> Figure:
    r"""Draw what is attended most: the mean weight of each key over all queries, over the input.

    Args:
        shown: The map of a block.
        pixels: See :func:`draw_rows`.
        picture: See :func:`draw_rows`.
        summary: What :func:`~nonlocalnn.affinity.summarise` has given for the map; None computes it.
        sample: Which one of the batch.
        title: Written above.
        rate: See :func:`draw_rows`.
        channel_names: See :func:`draw_rows`.
        planes: See :func:`draw_rows`.

    Raises:
        ValueError: The sample does not exist, or the pixels or the picture are not those of the map's input.
        ImportError: matplotlib is missing.
    """
    pixels = _pixels_of(shown, pixels, sample)
    if summary is None:
        summary = summarise(shown)
    size = "size of the " if shown.is_signed else ""
    label = f"mean over the queries: {size}{meaning(shown.instantiation)}"
    attended = summary.attended[sample]
    even = float(attended.mean())
    least = stands_out(attended.numel()) * even
    views = [View(weights=attended, signed=False, even=even, least=least, label=label)]
    drawn = pixels if picture is None else check_picture(picture, pixels)
    entropy = float(summary.entropy[sample])
    return _draw(shown, drawn, views, _titled(title, shown, entropy), rate, channel_names, planes)


def _pixels_of(shown: AffinityRows, pixels: Tensor | None, sample: int) -> Tensor:
    batch = shown.phi.shape[0]
    if not 0 <= sample < batch:
        raise ValueError(f"sample must be from 0 to {batch - 1}, one of the map's batch; got {sample}")
    if pixels is None:
        if shown.input is None:
            raise ValueError("the model was given no tensor to draw on: give pixels")
        pixels = shown.input[sample].float()
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp(min=torch.finfo(pixels.dtype).tiny)
    check_pixels(shown, pixels)
    return pixels


def check_pixels(shown: AffinityRows, pixels: Tensor) -> None:
    """Check that pixels are of the size of a map's input.

    Raises:
        ValueError: They are not.
    """
    if tuple(pixels.shape[1:]) != shown.grid.input_sides:
        raise ValueError(
            f"pixels must be (C, {', '.join(map(str, shown.grid.input_sides))}), as the input of the map; "
            f"got {tuple(pixels.shape)}"
        )


def check_picture(picture: Tensor, pixels: Tensor) -> Tensor:
    """Return a picture of any height and width, where it has the axes and the frames of the pixels.

    Raises:
        ValueError: It has others.
    """
    if picture.dim() != pixels.dim() or picture.dim() < 3 or picture.shape[1:-2] != pixels.shape[1:-2]:
        raise ValueError(
            "picture must be the image or the clip of pixels in another height and width; got shape "
            f"{tuple(picture.shape)} beside {tuple(pixels.shape)}"
        )
    return picture


def _titled(title: str, shown: AffinityRows, entropy: float, rows: int | None = None) -> str:
    keys = " x ".join(map(str, shown.key_grid.sides))
    form = f"{shown.instantiation}, keys {keys}"
    if evenly := evenly_in_words(entropy, rows):
        form += f"; {evenly}"
    return f"{title}; {form}" if title else form


class Picture:
    """A figure that notebooks show by themselves.

    Args:
        figure: It.
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def _repr_png_(self) -> bytes:
        return self._render("png")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file.

        Args:
            path: It ends in .png or .svg; an existing one is replaced.

        Raises:
            ValueError: It ends in something else.
        """
        suffix = Path(path).suffix.lower()
        check_choice("the ending of a picture's name", suffix, _SUFFIXES)
        # Rendered first: no file is begun that cannot be finished.
        content = self._render(suffix[1:])
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    def _render(self, kind: str) -> bytes:
        file = io.BytesIO()
        # The date would make every file of the same picture another.
        self.figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
        return file.getvalue()
