"""What a video file's container says and decoders do not: whether all of it is there, and which way up it is.

A file that was cut while it was copied often opens, declares its whole length or a shorter one, and ends
early without an error.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from nonlocalnn.data.video.animations import gif_is_cut, png_is_cut

# What may stand at the top level of mp4 and mov files; anything else is taken for bytes after their end.
_ISO_BOXES = frozenset(
    b"ftyp styp moov moof mdat mfra free skip wide uuid pnot sidx ssix meta emsg prft pdin udta".split()
)

# The frames' places in the file are written in moov, or in each moof.
_LISTS = frozenset((b"moov", b"moof"))


def is_cut(file: BinaryIO) -> bool | None:
    """Return whether a video file ends before its container says.

    The sizes that are written in the file are added up; nothing is decoded. Known are mp4, mov and their
    relatives (boxes), avi (the list of frames), Matroska and webm (the segment), and GIF and PNG (their last
    block).

    Returns:
        ``None`` where the container is of another kind, or leaves its size open as a live recording does.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> import io
        >>> is_cut(io.BytesIO(bytes([0, 0, 0, 8]) + b"moov" + bytes([0, 0, 0, 100]) + b"mdat"))
        True
    """
    size = file.seek(0, os.SEEK_END)
    start = _start(file)
    if start[4:8] in _ISO_BOXES:
        return _iso_is_cut(*_iso_boxes(file, size), size)
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return _avi_is_cut(file, size)
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_is_cut(file, size)
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return gif_is_cut(file)
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return png_is_cut(file)
    return None


def may_leave_frames_out(file: BinaryIO) -> bool:
    """Return whether a file is of a kind, mp4 or mov, whose edit list may skip frames that it holds."""
    return _start(file)[4:8] in _ISO_BOXES


def _start(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(12)


def is_still(file: BinaryIO) -> bool:
    """Return whether a file of boxes is one photograph, as AVIF and HEIC are, and no series of frames."""
    seen, _ = _iso_boxes(file, file.seek(0, os.SEEK_END))
    return b"meta" in seen and not seen & _LISTS


def _iso_boxes(file: BinaryIO, size: int) -> tuple[set[bytes], int | None]:
    """Return the kinds of the boxes, and where the last ends; None where it does wherever the file does.

    A box is 4 bytes of length, 4 of kind, and 8 more of length where the first say 1.
    """
    start, seen = 0, set()
    while start < size:
        file.seek(start)
        header = file.read(16)
        kind, length = header[4:8], int.from_bytes(header[:4], "big")
        if kind not in _ISO_BOXES:
            break
        seen.add(kind)
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            return seen, None
        if length < 8:
            break
        start += length
    return seen, start


def _iso_is_cut(seen: set[bytes], end: int | None, size: int) -> bool | None:
    if end is None:
        return None
    if end > size:
        return True
    # Without a list of its frames the end is missing.
    if b"mdat" in seen and not seen & _LISTS:
        return True
    return False if b"mdat" in seen else None


def _avi_is_cut(file: BinaryIO, size: int) -> bool | None:
    """Find the list of frames, ``movi``, in each part of the file; an index after it may be missing."""
    for start, length in _avi_frame_lists(file, size):
        if start is None:
            return True
        if length == 0:
            return None  # the writer was stopped before it could fill this in
        if start + 8 + length > size:
            return True
    return False


def _avi_frame_lists(file: BinaryIO, size: int) -> Iterator[tuple[int | None, int]]:
    """Yield where each list of frames begins, ``None`` where a part has none, and its length in bytes."""
    part = 0
    while part + 12 <= size:
        start = part + 12
        while True:
            file.seek(start)
            header = file.read(12)
            if len(header) < 12:
                yield None, 0
                return
            length = int.from_bytes(header[4:8], "little")
            if header[:4] == b"LIST" and header[8:12] == b"movi":
                break
            start += 8 + length + length % 2
        yield start, length
        # Files beyond 1 GiB have further parts, each with a list of its own.
        file.seek(part + 4)
        part += 8 + int.from_bytes(file.read(4), "little")
        file.seek(part)
        if file.read(4) != b"RIFF":
            break


def count_dropped(file: BinaryIO, stream: int) -> int:
    """Return how many frames of a stream an avi file counts and leaves empty, as cameras do that lost them.

    Counting ends where the list of frames is damaged; other kinds of files have none.
    """
    start = _start(file)
    if start[:4] != b"RIFF" or start[8:12] != b"AVI ":
        return 0
    size, dropped = file.seek(0, os.SEEK_END), 0
    names = tuple(f"{stream:02d}{kind}".encode() for kind in ("dc", "db"))
    for first, length in _avi_frame_lists(file, size):
        place = None if first is None else first + 12
        while place is not None and first is not None and place + 8 <= min(size, first + 8 + length):
            file.seek(place)
            header = file.read(8)
            bytes_held = int.from_bytes(header[4:8], "little")
            dropped += header[:4] in names and bytes_held == 0
            if not (header[:2].isdigit() or header[:2] == b"ix" or header[:4] in (b"LIST", b"JUNK")):
                break
            # A list of chunks that belong together: step into it.
            place += 12 if header[:4] == b"LIST" else 8 + bytes_held + bytes_held % 2
    return dropped


def _matroska_is_cut(file: BinaryIO, size: int) -> bool | None:
    """Read the size of the segment, which holds everything but a short header."""
    file.seek(0)
    head = file.read(4096)
    header_size, after = _variable_integer(head, 4)
    segment = after + (header_size or 0)
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":
        return True if segment >= size else None
    length, after = _variable_integer(head, segment + 4)
    return None if length is None else after + length > size


def _variable_integer(data: bytes, start: int) -> tuple[int | None, int]:
    """Return a size as Matroska writes it, ``None`` where it is left open, and the place behind it."""
    first = data[start] if start < len(data) else 0
    if first == 0:
        return None, start
    # The zeros before the first one count the bytes that follow.
    width = 9 - first.bit_length()
    largest = (1 << 7 * width) - 1
    value = int.from_bytes(data[start : start + width], "big") & largest
    return (None if value == largest else value), start + width


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
