"""Checks of files for the explorer: where they lie, of which kind they are, and how large."""

from __future__ import annotations

import math
import os
import re
import warnings
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from nonlocalnn._errors import needs
from nonlocalnn.data import IMAGE_SUFFIXES
from nonlocalnn.data.video import VIDEO_SUFFIXES
from nonlocalnn.data.video.pyav import import_av, open_container

# Nobody reads a longer list on a page, and a walk through a whole disk must end.
_MOST_LISTED, _MOST_WALKED = 1000, 100_000
_MAX_IMAGE_PIXELS = 50_000_000
_MAX_FRAME_SIDE = 4096
_MAX_FRAMES = 20_000
_MAX_SECONDS = 600.0
# Channels times steps of a sequence, and voxels times channels of a volume: 400 x 400 x 400.
_MAX_NUMBERS, _MAX_VOXELS = 1_000_000, 64_000_000
# Pillow and FFmpeg know far more formats, some of which read other files or start programs.
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
_FFMPEG_FORMATS = "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,asf,flv,ogg,gif"
_IMAGE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VIDEO_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, webm
    b"\x00\x00\x01\xba",  # MPEG, packs
    b"\x00\x00\x01\xb3",  # MPEG, a bare stream
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # wmv
    b"FLV\x01",
    b"OggS",
)
# Transport streams: the length of a packet, and the place of its sync byte. Camcorders (.mts, .m2ts) write a
# time of four bytes before each packet.
_PACKETS, _SYNC, _NUM_PACKETS = ((188, 0), (192, 4)), 0x47, 5
# Bytes that tell what a file is.
_NUM_FIRST = 192 * _NUM_PACKETS
# First boxes of mp4 and mov, after four bytes of length.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
_ARRAY_START, _GZIP_START = b"\x93NUMPY", b"\x1f\x8b"
# The header of an array is Python; here only the place of its sides in it is looked for, and nothing is run.
_SHAPE = re.compile(rb"'shape': ?\(([0-9, ]*)\)")
# Versions 1 and 2 of NIfTI: the length of the header in either byte order, and where which word stands.
_NIFTI = (((348).to_bytes(4, "little"), 344, b"n+1\0"), ((540).to_bytes(4, "little"), 4, b"n+2\0"))
_NIFTI_HEADER = 352
INPUT_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".npy", ".csv", ".nii", ".nii.gz")


def ending_of(path: Path) -> str:
    r"""Return the ending by which a file of a sequence or a volume is read; "" for all others.

    The first bytes decide: ``.npy``, ``.nii``, ``.nii.gz`` where NIfTI is in it, or ``.csv`` where rows of
    numbers are.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "upload"
        >>> _ = path.write_text("a,b\n1,2\n3,4\n")
        >>> ending_of(path), kinds_of(path)
        ('.csv', ('sequence',))
    """
    return _ending(_beginning(path))


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_NUM_FIRST)


def _ending(beginning: bytes) -> str:
    if beginning.startswith(_ARRAY_START):
        return ".npy"
    if beginning.startswith(_GZIP_START):
        try:
            # So many bytes and no more, whatever the rest may become.
            header = zlib.decompressobj(wbits=31).decompress(beginning, _NIFTI_HEADER)
        except zlib.error:
            return ""
        return ".nii.gz" if _is_nifti(header) else ""
    if _is_nifti(beginning):
        return ".nii"
    return ".csv" if _is_table(beginning) else ""


def _is_nifti(beginning: bytes) -> bool:
    return any(
        beginning[:4] in (length, length[::-1]) and beginning[place : place + len(word)] == word
        for length, place, word in _NIFTI
    )


def _is_table(beginning: bytes) -> bool:
    """Return whether a file begins with rows of as many cells each, with a number in each but the first."""
    # Of a longer file the last line is cut, and perhaps a letter of it.
    is_cut = len(beginning) == _NUM_FIRST
    try:
        text = beginning.decode("utf-8-sig", errors="ignore" if is_cut else "strict")
    except UnicodeDecodeError:
        return False
    lines = text.splitlines()
    whole = [line for line in (lines[:-1] or lines if is_cut else lines) if line.strip()]
    if not whole or "\0" in text:
        return False
    divider = next((each for each in ("\t", ";") if each in whole[0]), ",")
    rows = [line.split(divider) for line in whole]
    if len({len(row) for row in rows}) != 1:
        return False
    return all(any(map(_is_number, row)) for row in (rows[1:] or rows))


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def kinds_of(path: Path) -> tuple[str, ...]:
    r"""Return what a file can be read as; its first bytes decide, and its name does not.

    Returns:
        ``("image",)``, ``("video",)``, both for a GIF, ``("sequence",)``, ``("volume",)``, or nothing.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> _ = path.write_bytes(b"PK\x03\x04 a zip")
        >>> kinds_of(path)
        ()
        >>> _ = path.write_bytes(b"\x00\x00\x00\x18ftypisom")
        >>> kinds_of(path)
        ('video',)
    """
    beginning = _beginning(path)
    start = beginning[:12]
    if start.startswith(b"GIF8"):
        return ("image", "video")
    if start.startswith(_IMAGE_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"WEBP"):
        return ("image",)
    is_box = start[4:8] in _BOXES and not (start[4:8] == b"ftyp" and start[8:] in _STILL_BRANDS)
    if is_box or start.startswith(_VIDEO_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"AVI "):
        return ("video",)
    if _is_transport_stream(beginning):
        return ("video",)
    ending = _ending(beginning)
    if ending == ".npy":
        sides = _sides(beginning)
        return {1: ("sequence",), 2: ("sequence",), 3: ("volume",), 4: ("volume",)}.get(len(sides), ())
    return {"": (), ".csv": ("sequence",)}.get(ending, ("volume",))


def _sides(beginning: bytes) -> list[int]:
    """Return the sides of an array, by its header; none where it does not say them in the usual way."""
    found = _SHAPE.search(beginning)
    return [int(side) for side in found[1].split(b",") if side.strip()] if found else []


def _is_transport_stream(beginning: bytes) -> bool:
    """Return whether the first packets, two at least, begin as those of a transport stream."""
    return any(
        len(beginning) >= 2 * length and set(beginning[place : length * _NUM_PACKETS : length]) == {_SYNC}
        for length, place in _PACKETS
    )


def check_size(path: Path, *, kind: str) -> None:
    """Check by its headers, before it is decoded, that a file is not too large to be explained.

    Images may have 50 megapixels; videos 4096 pixels a side, 20,000 frames and 10 minutes; sequences
    1,000,000 numbers, channels times steps; volumes 64,000,000 voxels.

    Raises:
        ValueError: It is too large, damaged or of another kind; the message names the file.
        ImportError: The library that reads it is missing.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / "wide.png"
        >>> Image.new("1", (20000, 3000)).save(path)
        >>> check_size(path, kind="image")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: cannot read image ...wide.png: it has 60 megapixels, and up to 50 are explained here...
    """
    {"image": _check_image, "video": _check_video, "sequence": _check_sequence, "volume": _check_volume}[
        kind
    ](path)


def _check_sequence(path: Path) -> None:
    if path.suffix.lower() == ".csv":
        content = path.read_bytes()
        # Cells have a divider or the end of a line behind them.
        number = sum(content.count(each) for each in (b",", b";", b"\t", b"\n"))
    else:
        number = math.prod(_sides(_beginning(path)))
    if number > _MAX_NUMBERS:
        raise ValueError(
            f"cannot read sequence {path}: it has {number:,} numbers, channels times steps, and up to "
            f"{_MAX_NUMBERS:,} are explained here: cut it, or keep every second step"
        )


def _check_volume(path: Path) -> None:
    if path.suffix.lower() == ".npy":
        sides = _sides(_beginning(path))
    else:
        with needs("nibabel", "volumes", "reading NIfTI"):
            import nibabel
        try:
            # Of its header alone; values are read when they are asked for.
            sides = [int(side) for side in nibabel.load(path).shape]
        # On damaged bytes nibabel raises nearly anything.
        except Exception as error:
            raise ValueError(f"cannot read volume {path}: its header is damaged") from error
    if math.prod(sides) > _MAX_VOXELS:
        raise ValueError(
            f"cannot read volume {path}: it has {math.prod(sides):,} voxels, and up to {_MAX_VOXELS:,} are "
            "explained here: cut it, or make its voxels larger"
        )


def _check_image(path: Path) -> None:
    with needs("pillow", "data", "reading images"):
        from PIL import Image
    limit = f"up to {_MAX_IMAGE_PIXELS // 1_000_000} are explained here: make it smaller"
    try:
        # Pillow warns of sizes that are refused below anyway.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_PILLOW_FORMATS) as opened:
                pixels = opened.width * opened.height
    except Image.DecompressionBombError:
        raise ValueError(f"cannot read image {path}: it has hundreds of megapixels, and {limit}") from None
    # Pillow raises nearly any error for damaged bytes.
    except Exception as error:
        raise ValueError(
            f"cannot read image {path}: it is damaged, or none of {', '.join(_PILLOW_FORMATS)}"
        ) from error
    if pixels > _MAX_IMAGE_PIXELS:
        raise ValueError(f"cannot read image {path}: it has {pixels / 1e6:.0f} megapixels, and {limit}")


def _check_video(path: Path) -> None:
    av = import_av()
    try:
        with path.open("rb") as file, open_container(file, _FFMPEG_FORMATS) as container:
            reason = _excess(av, container)
    except av.error.FFmpegError as error:
        raise ValueError(
            f"cannot read video {path}: it is damaged, or of a kind that is not read here"
        ) from error
    if reason is not None:
        raise ValueError(f"cannot read video {path}: {reason}")


def _excess(av: Any, container: Any) -> str | None:
    """Return why a video is refused; None if it is accepted."""
    cover = av.stream.Disposition.attached_pic
    streams = [each for each in container.streams.video if not each.disposition & cover]
    if not streams or streams[0].codec_context is None:
        return "it holds no video stream that can be decoded"
    stream = streams[0]
    if max(stream.width, stream.height) > _MAX_FRAME_SIDE:
        return (
            f"its frames are {stream.height} x {stream.width} pixels (height x width), and up to "
            f"{_MAX_FRAME_SIDE} a side are explained here: make it smaller"
        )
    seconds = (container.duration or 0) / av.time_base
    if _is_long(stream.frames, seconds) or _holds_more(container, stream):
        return (
            f"it is longer than the {_MAX_SECONDS / 60:.0f} minutes or {_MAX_FRAMES:,} frames that are "
            "explained here: cut it"
        )
    return None


def _is_long(frames: int, seconds: float) -> bool:
    return frames > _MAX_FRAMES or seconds > _MAX_SECONDS


def _holds_more(container: Any, stream: Any) -> bool:
    """Return whether a video is too long, by its packets: headers may be wrong or say nothing."""
    first = None
    for number, packet in enumerate(container.demux(stream)):
        seconds = 0.0
        if packet.pts is not None:
            first = packet.pts if first is None else first
            seconds = float((packet.pts - first) * packet.time_base)
        if _is_long(number, seconds):
            return True
    return False


def list_inputs(folder: Path) -> list[str]:
    """Return the files in a folder, at any depth, that a user may choose, by their endings.

    Hidden files, links that lead out of the folder and names that are not UTF-8 are left out.

    Returns:
        Their paths below ``folder``, with forward slashes, sorted; at most 1,000.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.mp4", "notes.txt"):
        ...     (folder / name).touch()
        >>> list_inputs(folder)
        ['a.mp4', 'b.png']
    """
    found: list[str] = []
    walked = 0
    for place, folders, names in os.walk(folder):
        # Files in hidden folders are left out, so the walk need not go there.
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            relative = Path(place, name).relative_to(folder).as_posix()
            if find_input(folder, relative) is not None:
                found.append(relative)
            walked += 1
            if len(found) == _MOST_LISTED or walked == _MOST_WALKED:
                return sorted(found)
    return sorted(found)


def find_input(folder: Path, name: str) -> Path | None:
    """Return the file that a user names in a folder; None if it is missing or may not be read.

    Example:
        >>> find_input(Path("."), "../secret.png") is None
        True
    """
    parts = PurePosixPath(name).parts
    # Hidden files and ".." both begin with a dot.
    if not parts or any(part[0] in "./" for part in parts):
        return None
    if not name.lower().endswith(INPUT_SUFFIXES):
        return None
    try:
        name.encode()
        root = folder.resolve(strict=True)
        path = root.joinpath(*parts).resolve(strict=True)
        is_ours = path.is_relative_to(root) and path.is_file() and os.access(path, os.R_OK)
        return path if is_ours else None
    except (OSError, ValueError, RuntimeError):
        # No such file, a name with a zero byte or not UTF-8, a circle of links.
        return None
