"""Files: written beside their final place, then renamed; read as text; and what one is by its first bytes."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` when the block ends without an error.

    A reader sees the old file or the new one, never a part; after an error, a kill or a full disk the old
    file is still there.

    Args:
        path: The final place; missing folders are made.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".part", dir=final.parent)
    except OSError as error:
        # Of the file that was asked for: nobody has typed the temporary one.
        raise OSError(error.errno, error.strerror, str(final)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner may read, and some libraries replace the file by one of
        # their own. The result gets the permissions of the user's umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


# safetensors first writes a file of such a name beside the path that it is given.
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")


def remove_parts(folder: Path) -> None:
    """Remove temporary files that :func:`atomic_path` left in a folder because its process was killed."""
    for part in folder.glob(".*"):
        if part.name.endswith(".part") or _OF_SAFETENSORS.fullmatch(part.name):
            part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: str | os.PathLike[str]) -> str:
    """Return what a text file says, in UTF-8; a byte order mark is left out.

    Raises:
        ValueError: It is not UTF-8.
    """
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8; byte {error.start} is not: convert it") from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    r"""Return the lines of a text file that are not blank, without the spaces around them.

    Raises:
        ValueError: It is not UTF-8.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "classes.txt"
        >>> _ = path.write_text("cat\n\n dog\n")
        >>> read_lines(path)
        ['cat', 'dog']
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


# How files begin that people name by mistake, and what they are; what decides is checked in this order.
_BEGINNINGS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"RIFF....AVI ", "a video (AVI)"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    # Brands of HEIF; phones write the first.
    (rb"....ftyp(?:hei|hev|mif1|msf1)", "a HEIC photograph"),
    (rb"....ftyp", "a video (MP4 or MOV)"),
    (rb"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (rb"%PDF", "a PDF document"),
    (rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|!--)", "a web page"),
    (rb"(?:\xef\xbb\xbf)?\s*<\?xml", "a text in XML, such as an error of a server"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself: run git lfs pull"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5), as Keras and h5py write it"),
    (rb"\x93NUMPY", "a NumPy array (.npy)"),
    # The version of the format, then the name of the program, the graph or the operators.
    (rb"\x08[\x01-\x20][\x12:B]", "an ONNX program: give the checkpoint that it was exported from"),
    (rb"\x1f\x8b", "a gzip archive (.gz): unpack it first"),
    (rb"BZh[1-9]", "a bzip2 archive (.bz2): unpack it first"),
    (rb"\xfd7zXZ\x00", "an xz archive: unpack it first"),
    (rb"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (rb"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (rb".{257}ustar", "a tar archive: unpack it first"),
    (rb"GGUF", "a GGUF file, as llama.cpp reads it"),
    # Two letters of the first name, since four bytes of JSON may be a length in other formats.
    (rb"\s*\{\s*\"\w\w", "a text in JSON, such as a configuration"),
)


def kind_of_beginning(beginning: bytes) -> str | None:
    """Return what a file is by its first bytes, in words; None where they tell nothing.

    32 bytes tell everything but a tar archive, which takes 262.

    Example:
        >>> kind_of_beginning(bytes.fromhex("89504e470d0a1a0a")), kind_of_beginning(b"nonsense")
        ('a PNG image', None)
    """
    return next((kind for start, kind in _BEGINNINGS if re.match(start, beginning, re.DOTALL)), None)


def json_text(value: object, *, encoding: str = "utf-8", **settings: Any) -> str:
    r"""Return JSON in which names of any language stay as people write them.

    Args:
        value: What becomes JSON.
        encoding: Of where the text goes. What it cannot hold, as a file name that is no UTF-8, is escaped.
        settings: Of :func:`json.dumps`.

    Returns:
        One line, unless ``settings`` ask for more.

    Example:
        >>> json_text({"class": "Käse"}), json_text({"class": "Käse"}, encoding="ascii")
        ('{"class": "Käse"}', '{"class": "K\\u00e4se"}')
    """
    text = json.dumps(value, ensure_ascii=False, **settings)
    # Python's splitlines takes these for ends of lines, and a line of JSON must stay one.
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, **settings)
    return text
