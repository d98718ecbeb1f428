"""A text file with a path a line, cut into parts and never held whole."""

from __future__ import annotations

import codecs
import hashlib
import os
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from nonlocalnn.data.clips import check_positive

# No system takes a path of this length; a film that is named by mistake has such lines.
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class PathList:
    """What is known of a list of paths: where each part begins, and what it holds.

    Args:
        path: The text file.
        part_size: Paths of each part but the last.
        sha256: Of the whole file, in hexadecimal.
        lines: Paths, that is lines that are not blank.
        blank: Lines that are.
        repeated: Paths that stand further up already.
        starts: Where each part begins, in bytes.
        checksums: CRC-32 of the paths of each part.
    """

    path: Path
    part_size: int
    sha256: str
    lines: int
    blank: int
    repeated: int
    starts: array[int] = field(repr=False)
    checksums: array[int] = field(repr=False)

    @property
    def parts(self) -> int:
        """Into how many parts it is cut."""
        return len(self.starts)

    def size(self, part: int) -> int:
        """Return the number of paths of a part."""
        return min(self.part_size, self.lines - part * self.part_size)

    def read(self, part: int) -> list[str]:
        """Return the paths of a part, as they stand in the list; bytes that are no text survive.

        Raises:
            ValueError: The list has changed since it was indexed.
        """
        names: list[str] = []
        checksum = 0
        with self.path.open("rb") as opened:
            opened.seek(self.starts[part])
            for line in _lines(opened, self.path):
                name = _name(line)
                if name:
                    checksum = zlib.crc32(name + b"\n", checksum)
                    names.append(os.fsdecode(name))
                if len(names) == self.size(part):
                    break
        if checksum != self.checksums[part]:
            raise ValueError(
                f"{self.path} must stay as it is while it is worked on; it has changed: start again"
            )
        return names


def index_list(path: str | os.PathLike[str], *, part_size: int) -> PathList:
    r"""Read a list of paths through once and note where its parts begin.

    A line is a path, whatever its bytes; blank lines are left out, and so are a byte order mark and what
    Windows ends its lines with. Paths that repeat are counted and kept.

    Args:
        path: The text file.
        part_size: Paths of a part.

    Returns:
        The index, 12 bytes a part.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lists no path, a line is longer than any path, or ``part_size`` is below 1.

    Memory: 8 bytes a line for a moment, and twice that again to count what repeats.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "files.txt"
        >>> _ = path.write_text("a.png\n\nb.png\na.png\n")
        >>> listed = index_list(path, part_size=2)
        >>> listed.lines, listed.blank, listed.repeated, listed.read(1)
        (3, 1, 1, ['a.png'])
    """
    check_positive(part_size=part_size)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such list of files: {path}")
    digest, starts, checksums, hashes = hashlib.sha256(), array("Q"), array("I"), array("q")
    position = blank = checksum = 0
    with path.open("rb") as opened:
        if opened.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            digest.update(codecs.BOM_UTF8)
            position = len(codecs.BOM_UTF8)
        opened.seek(position)
        for line in _lines(opened, path):
            digest.update(line)
            name = _name(line)
            if not name:
                blank += 1
            else:
                if len(hashes) % part_size == 0:
                    starts.append(position)
                    checksum = 0
                    checksums.append(0)
                checksums[-1] = checksum = zlib.crc32(name + b"\n", checksum)
                hashes.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), signed=True))
            position += len(line)
    if not hashes:
        raise ValueError(f"{path} must list a path on each line; it lists none")
    distinct = torch.unique(torch.frombuffer(hashes, dtype=torch.int64)).numel()
    return PathList(
        path=path,
        part_size=part_size,
        sha256=digest.hexdigest(),
        lines=len(hashes),
        blank=blank,
        repeated=len(hashes) - distinct,
        starts=starts,
        checksums=checksums,
    )


def _lines(opened: BinaryIO, path: Path) -> Iterator[bytes]:
    for line in iter(partial(opened.readline, _LONGEST_LINE), b""):
        if len(line) == _LONGEST_LINE:
            raise ValueError(
                f"{path} must be a text file with a path on each line; one has {_LONGEST_LINE} bytes or more"
            )
        yield line


def _name(line: bytes) -> bytes:
    """Return the path of a line; nothing of a blank one."""
    name = line.rstrip(b"\r\n")
    return name if name.strip() else b""
