"""Animations: whether a GIF or a PNG is cut, and which kinds of animations are not read."""

import os
from typing import BinaryIO


def gif_is_cut(file: BinaryIO) -> bool | None:
    """Walk the blocks of a GIF to its trailer; what follows that does not count.

    Returns:
        ``None`` where a block is of no known kind.

    Example:
        >>> import io
        >>> gif_is_cut(io.BytesIO(b"GIF89a" + bytes(7) + b";")), gif_is_cut(io.BytesIO(b"GIF89a" + bytes(7)))
        (False, True)
    """
    file.seek(0)
    _skip_colours(file, file.read(13)[10:11])
    while kind := file.read(1):
        if kind == b";":
            return False
        if kind == b",":
            _skip_colours(file, file.read(9)[8:])
        elif kind != b"!":
            return None
        # The size of a picture's codes, or which extension it is; then pieces, each after its length, up to
        # an empty one.
        file.seek(1, os.SEEK_CUR)
        while (length := file.read(1)) > b"\0":
            file.seek(length[0], os.SEEK_CUR)
    return True


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    """Go beyond the table of colours that stands here, if the flags say that there is one."""
    if flags >= b"\x80":
        file.seek(3 << (flags[0] % 8 + 1), os.SEEK_CUR)


def png_is_cut(file: BinaryIO) -> bool:
    """Walk the chunks of a PNG, animated or not, to its last, ``IEND``."""
    size, place, kind = file.seek(0, os.SEEK_END), 8, b""
    while place < size and kind != b"IEND":
        file.seek(place)
        header = file.read(8)
        kind = header[4:]
        place += 12 + int.from_bytes(header[:4], "big")
    return place > size or kind != b"IEND"


def unread_animation(beginning: bytes) -> str | None:
    """Return why a file is refused that is an animation of a kind that is not read, by its first 32 bytes.

    FFmpeg finds no frame in animated WebP, and a single one in animated AVIF.

    Example:
        >>> unread_animation(bytes(4) + b"ftypavis").partition(":")[0]
        'it is an animated AVIF, and of animations GIF and APNG are read'
        >>> unread_animation(b"GIF89a") is None
        True
    """
    if beginning[4:12] == b"ftypavis":
        kind = "AVIF"
    # The second bit of the flags in a header of the extended format.
    elif (
        beginning[:4] == b"RIFF" and beginning[8:16] == b"WEBPVP8X" and beginning[20:21] and beginning[20] & 2
    ):
        kind = "WebP"
    else:
        return None
    return (
        f"it is an animated {kind}, and of animations GIF and APNG are read: convert it, such as with "
        "Pillow, Image.open('a').save('a.apng', save_all=True)"
    )
