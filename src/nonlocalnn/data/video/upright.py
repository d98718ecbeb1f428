"""Which way up a picture is shown: the display matrix of a frame, and pixels turned by it."""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

# More than FFmpeg has kinds of side data, which it numbers from 0: some thirty so far.
_KINDS = 64


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """Return the display matrix that comes with a frame of PyAV's, ``None`` where none does."""
    try:
        side_data = list(frame.side_data)
    except ValueError:
        # PyAV gives none of a frame's side data where it does not know one, such as the EXIF of cameras.
        side_data = list(_without_unknown(frame).side_data)
    for each in side_data:
        if each.type.name == "DISPLAYMATRIX":
            return struct.unpack("=9i", bytes(each))
    return None


def _without_unknown(frame: Any) -> Any:
    """Return the frame without the side data that PyAV does not know."""
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    unknown = set(range(_KINDS)).difference(kind.value for kind in Type)
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1)
        ),
        *(graph.add("sidedata", f"mode=delete:type={kind}") for kind in sorted(unknown)),
        graph.add("buffersink"),
    ).configure()
    graph.push(frame)
    return graph.pull()


def oriented(pixels: Tensor, matrix: Sequence[float]) -> Tensor:
    """Turn and mirror a picture as a display matrix says, to the nearest of the eight orientations.

    A point (x, y) is shown at (a x + c y, b x + d y). Scales are left aside, and so are shifts.

    Args:
        pixels: (H, W, 3).
        matrix: a, b, u, c, d, v, x, y, w, as mp4 and mov write them.

    Returns:
        (H, W, 3), or (W, H, 3) where rows become columns.

    Example:
        >>> import torch
        >>> quarter_turn = (0, 1, 0, -1, 0, 0, 0, 0, 1)
        >>> oriented(torch.tensor([[[1], [2]]]), quarter_turn).flatten(1)
        tensor([[1],
                [2]])
    """
    a, b, _, c, d, *_ = matrix
    # Each of the two axes counts alike, whatever its scale.
    wide, high = math.hypot(a, b) or 1.0, math.hypot(c, d) or 1.0
    if abs(a) / wide + abs(d) / high >= abs(b) / wide + abs(c) / high:
        x, y = a, d
    else:
        pixels, x, y = pixels.transpose(0, 1), c, b
    mirrored = [axis for axis, sign in ((0, y), (1, x)) if sign < 0]
    return (pixels.flip(mirrored) if mirrored else pixels).contiguous()
