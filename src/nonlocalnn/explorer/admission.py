"""Checks of files for the explorer: where they lie, of which kind they are, and how large."""

from __future__ import annotations

import os
import warnings
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
# First boxes of mp4 and mov, after four bytes of length.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def kinds_of(path: Path) -> tuple[str, ...]:
    r"""Return what a file can be read as; its first bytes decide, and its name does not.

    Returns:
        ``("image",)``, ``("video",)``, both for a GIF, or nothing.

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
    with path.open("rb") as file:
        beginning = file.read(192 * _NUM_PACKETS)
    start = beginning[:12]
    if start.startswith(b"GIF8"):
        return ("image", "video")
    if start.startswith(_IMAGE_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"WEBP"):
        return ("image",)
    is_box = start[4:8] in _BOXES and not (start[4:8] == b"ftyp" and start[8:] in _STILL_BRANDS)
    if is_box or start.startswith(_VIDEO_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"AVI "):
        return ("video",)
    return ("video",) if _is_transport_stream(beginning) else ()


def _is_transport_stream(beginning: bytes) -> bool:
    """Return whether the first packets, two at least, begin as those of a transport stream."""
    return any(
        len(beginning) >= 2 * length and set(beginning[place : length * _NUM_PACKETS : length]) == {_SYNC}
        for length, place in _PACKETS
    )


def check_size(path: Path, *, kind: str) -> None:
    """Check by its headers, before it is decoded, that a file is not too large to be explained.

    Images may have 50 megapixels; videos 4096 pixels a side, 20,000 frames and 10 minutes.

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
    if kind == "image":
        _check_image(path)
    else:
        _check_video(path)


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
    """Return the images and videos in a folder, at any depth, that a user may choose.

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
    if PurePosixPath(name).suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
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
