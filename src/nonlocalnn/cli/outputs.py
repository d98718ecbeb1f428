"""Whether an output can be written, asked before the work: hours of it must not end at a wrong path."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_file(output: Path, *, flag: str = "--output", read: tuple[Path, ...] = ()) -> None:
    """Check that a file can be written at a path.

    Args:
        output: The file; missing folders on the way to it are made when it is written.
        flag: What is typed before it, for errors.
        read: Files that are read for it, which writing it would lose.

    Raises:
        ValueError: A folder or a device is there, a file is on the way to it, or it is read.
        OSError: Its folder cannot be written.
    """
    for path in read:
        if output.exists() and path.exists() and path.samefile(output):
            raise ValueError(f"{flag} {output} would overwrite {path}, which is read: choose another")
    if _is(output, flag).is_dir():
        raise ValueError(
            f"{flag} must be a file, and {output} is a folder: name a file, such as {output / 'output'}"
        )
    # A file is written beside its place and renamed, which would put it in the place of a device.
    if output.exists() and not output.is_file():
        raise ValueError(f"{flag} must be a regular file, and {output} is none: choose another")
    _check_way(output.parent, output, flag)


def check_folder(output: Path, *, flag: str = "--output") -> None:
    """Check that a folder can be filled at a path.

    Raises:
        ValueError: A file is there, or on the way to it.
        OSError: It cannot be written.
    """
    if _is(output, flag).exists() and not output.is_dir():
        raise ValueError(f"{flag} must be a folder, and {output} is a file: choose another")
    _check_way(output, output, flag)


def unused(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it: inputs of one name must not overwrite one another.

    Example:
        >>> taken = set()
        >>> unused("cat", taken), unused("cat", taken)
        ('cat', 'cat-2')
    """
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


def _is(output: Path, flag: str) -> Path:
    """Return the path; a name that no file can have is refused by the system's own words."""
    try:
        output.exists()
    except OSError as error:
        raise ValueError(f"{flag} {str(output)[:60]}... cannot be made: {error.strerror}") from None
    return output


def _check_way(folder: Path, output: Path, flag: str) -> None:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f"{flag} {output} cannot be made: {there} is a file, and no folder: choose another")
    # Tried, and not asked for: root may write everywhere by its rights, and not into /proc for all that.
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError:
        raise PermissionError(
            f"{flag} {output} cannot be made: {there} may not be written: choose another"
        ) from None
