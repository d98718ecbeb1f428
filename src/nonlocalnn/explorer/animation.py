"""Animations of clips, with what one position attends to as heat over the frames."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nonlocalnn._errors import check_choice, needs
from nonlocalnn._files import atomic_path
from nonlocalnn.affinity import AffinityMap
from nonlocalnn.affinity.evenness import even_level, stands_out
from nonlocalnn.affinity.grids import check_position
from nonlocalnn.affinity.pictures import check_picture, check_pixels, panels
from nonlocalnn.affinity.pictures.views import meaning
from nonlocalnn.affinity.rows import Query
from nonlocalnn.data.video.writing import write_h264
from nonlocalnn.explorer.pictures import check_single

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".gif", ".mp4")
_DPI = 100
_LEAST_WIDTH = 256
# Margins of a frame, in pixels. The colour bar and its numbers are on the right.
_LEFT, _RIGHT, _ABOVE, _BELOW = 10, 110, 26, 10
# Browsers slow down a GIF whose frames are shorter than 20 ms.
_MOST_RATE = 50.0


def write_animation(
    shown: AffinityMap,
    pixels: Tensor,
    path: str | os.PathLike[str],
    *,
    query: Query,
    picture: Tensor | None = None,
    frames_per_second: float = 4.0,
) -> None:
    """Write a clip as an animation, with what one position attends to as heat over the frames.

    The query's box has a solid outline in its own frames, and a dashed one in the others. Each pixel of the
    clip becomes a square of pixels, so that frames are at least 256 pixels wide. Colours are multiples of
    the even level, as :func:`~nonlocalnn.affinity.pictures.draw_rows` says.

    Args:
        shown: A block's map for this one clip.
        pixels: The clip as it looks, (C, T, H, W), in [0, 1].
        path: The file: an animation that starts over (.gif), or a video in H.264 (.mp4); an existing one is
            replaced.
        query: A place (t, y, x) in ``shown.grid.sides``.
        picture: The same clip in its own resolution, (C, T, h, w), drawn in place of ``pixels``.
        frames_per_second: Above 0, at most 50.

    Raises:
        ValueError: The map is not of one clip, the query does not exist, the pixels are not those of the
            map's input, the rate is out of range, or the file's ending is another.
        ImportError: matplotlib, or what writes the file (Pillow or PyAV), is missing.

    Example:
        >>> import tempfile, torch
        >>> from nonlocalnn import capture_affinity, create_model
        >>> model, clip = create_model("nl2_c2d_tiny").eval(), torch.rand(3, 4, 32, 32)
        >>> with capture_affinity(model, ["layer3.0.nl"]) as maps:
        ...     _ = model(clip[None])
        >>> path = Path(tempfile.mkdtemp(), "clip.gif")
        >>> write_animation(maps["layer3.0.nl"], clip, path, query=(1, 2, 2))
        >>> path.stat().st_size > 1000
        True
    """
    suffix = Path(path).suffix.lower()
    check_choice("the ending of an animation's name", suffix, SUFFIXES)
    check_single(shown)
    if len(shown.grid.sides) != 3:
        raise ValueError(f"animations are of clips; the map's input has the sides {shown.grid.input_sides}")
    if not 0 < frames_per_second <= _MOST_RATE:
        raise ValueError(
            f"frames_per_second must be above 0 and at most {_MOST_RATE:g}; got {frames_per_second}"
        )
    check_pixels(shown, pixels)
    drawn = pixels if picture is None else check_picture(picture, pixels)
    place = check_position(query, shown.grid.sides)
    write = _write_gif if suffix == ".gif" else _write_mp4
    with atomic_path(path) as temporary:
        write(_drawn(shown, drawn, place), temporary, frames_per_second)


def _drawn(shown: AffinityMap, pixels: Tensor, query: Sequence[int]) -> Iterator[Any]:
    """Yield every frame as it is drawn: uint8 (height, width, 3), both even."""
    import numpy as np

    num_frames, height, width = pixels.shape[1:]
    enlarge = math.ceil(_LEAST_WIDTH / width)
    figure, axis, bar_axis = _canvas(height * enlarge, width * enlarge)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    weights = shown.of_query(*query)[0]
    num_keys = math.prod(shown.key_shape)
    even = float(even_level(weights.flatten(), num_keys))
    least = stands_out(num_keys) * even
    scale = panels.scale_of(weights, signed=shown.is_signed, even=even, least=least)
    in_time, *in_space = shown.grid.box(*query)
    own = panels.frames_of(in_time, range(num_frames))
    for frame in range(num_frames):
        axis.clear()
        panels.show_pixels(axis, pixels[:, frame], shown.grid.input_sides)
        heat = panels.heat_of_frame(weights, shown.key_grid, frame)
        layer = panels.show_heat(axis, heat, shown.key_grid, scale)
        panels.mark_box(axis, in_space, of_this_frame=frame in own)
        axis.set_title(f"frame {frame} of {num_frames}", fontsize=9, loc="left", pad=4)
        if frame == 0:
            panels.fill_bar(
                figure.colorbar(layer, cax=bar_axis),
                scale,
                meaning(shown.instantiation),
                inches=height * enlarge / _DPI,
            )
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _canvas(height: int, width: int) -> tuple[Figure, Any, Any]:
    """Return a figure of even sides, its axes of exactly ``height`` x ``width`` pixels, and the bar's."""
    whole_height, whole_width = height + _ABOVE + _BELOW, width + _LEFT + _RIGHT
    whole_height, whole_width = whole_height + whole_height % 2, whole_width + whole_width % 2
    figure = panels.new_figure(whole_width / _DPI, whole_height / _DPI)
    figure.set_layout_engine("none")
    figure.set_dpi(_DPI)
    bottom, high = 1 - (_ABOVE + height) / whole_height, height / whole_height
    axis = figure.add_axes((_LEFT / whole_width, bottom, width / whole_width, high))
    bar = figure.add_axes(((_LEFT + width + 12) / whole_width, bottom, 12 / whole_width, high))
    return figure, axis, bar


def _write_gif(frames: Iterator[Any], path: Path, rate: float) -> None:
    with needs("pillow", "data", "writing a GIF"):
        from PIL import Image

    def with_few_colours(frame: Any) -> Any:
        # A GIF has 256 colours a frame. Chosen evenly and dithered they leave the colour bar smooth.
        image = Image.fromarray(frame)
        return image.quantize(palette=image.quantize(256, method=Image.Quantize.FASTOCTREE))

    first, *others = map(with_few_colours, frames)
    first.save(path, "GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)


def _write_mp4(frames: Iterator[Any], path: Path, rate: float) -> None:
    first = next(frames)
    images = enumerate(itertools.chain([first], frames))
    write_h264(path, images, size=first.shape[:2], rate=rate, quality=16)
