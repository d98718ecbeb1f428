"""A text file with a path a line."""

from __future__ import annotations

import codecs
import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# No system takes a path of this length; a film that is named by mistake has such lines.
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class PathList:
    """The paths of a list.

    Args:
        names: As they stand in the list; bytes that are no text survive, as :func:`os.fsdecode` has them.
        blank: Lines without a path.
        repeated: Paths that stand further up already.
        sha256: Of the whole file, in hexadecimal.
    """

    names: list[str] = field(repr=False)
    blank: int
    repeated: int
    sha256: str


def read_list(path: str | os.PathLike[str]) -> PathList:
    r"""Read a list of paths.

    A line is a path, whatever its bytes; blank lines are left out, and so are a byte order mark and what
    Windows ends its lines with. Paths that repeat are counted and kept.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lists no path, a line is longer than any path, or it is text in UTF-16.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "files.txt"
        >>> _ = path.write_text("a.png\n\nb.png\na.png\n")
        >>> listed = read_list(path)
        >>> listed.names, listed.blank, listed.repeated
        (['a.png', 'b.png', 'a.png'], 1, 1)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such list of files: {path}")
    names: list[str] = []
    digest, blank = hashlib.sha256(), 0
    with path.open("rb") as opened:
        for line in iter(partial(opened.readline, _LONGEST_LINE), b""):
            if len(line) == _LONGEST_LINE:
                raise ValueError(
                    f"{path} must be a text file with a path on each line; one has {_LONGEST_LINE} bytes or "
                    "more"
                )
            is_first = not names and not blank
            if is_first and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise ValueError(f"{path} must be text in UTF-8, and is in UTF-16: convert it")
            digest.update(line)
            name = (line.removeprefix(codecs.BOM_UTF8) if is_first else line).rstrip(b"\r\n")
            if name.strip():
                names.append(os.fsdecode(name))
            else:
                blank += 1
    if not names:
        raise ValueError(f"{path} must list a path on each line; it lists none")
    return PathList(names, blank, len(names) - len(set(names)), digest.hexdigest())
