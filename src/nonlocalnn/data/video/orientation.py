"""Which way up a video is shown: the display matrix that cameras and editors write into a file."""

import math
import os
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from torch import Tensor


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


def is_mirrored(file: BinaryIO) -> bool:
    """Return whether the first video track of an mp4 or mov file has a matrix that mirrors."""
    for movie in _boxes(file, 0, file.seek(0, os.SEEK_END), b"moov"):
        for track in _boxes(file, *movie, b"trak"):
            for header, _ in _boxes(file, *track, b"tkhd") if _holds_video(file, track) else ():
                file.seek(header)
                content = file.read(96)
                # Version 1 has three times and a length of eight bytes in place of four.
                place = 52 if content[:1] == b"\1" else 40
                if len(content) >= place + 36:
                    a, b, _, c, d, *_ = struct.unpack_from(">9i", content, place)
                    return a * d < b * c
    return False


def _holds_video(file: BinaryIO, track: tuple[int, int]) -> bool:
    for media in _boxes(file, *track, b"mdia"):
        for start, _ in _boxes(file, *media, b"hdlr"):
            file.seek(start + 8)
            return file.read(4) == b"vide"
    return False


def _boxes(file: BinaryIO, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the content of each box of a kind starts and ends, between two places of the file."""
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        length, inside = int.from_bytes(header[:4], "big"), 8
        if length == 1:
            length, inside = int.from_bytes(header[8:16], "big"), 16
        length = length or end - start
        if length < inside:
            return
        if header[4:8] == kind:
            yield start + inside, min(start + length, end)
        start += length
