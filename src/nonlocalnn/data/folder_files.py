"""What in a folder of data is no data: known leftovers of systems are ignored, and all else is named once."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# What Windows, macOS and storage boxes leave in folders; hidden files are their leftovers too.
_LEFTOVERS = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
)
_MOST_NAMED = 8


def is_ignored(entry: Path) -> bool:
    """Return whether a file or folder is hidden, or a leftover of a system, such as ``Thumbs.db``.

    Example:
        >>> is_ignored(Path(".DS_Store")), is_ignored(Path("Thumbs.db")), is_ignored(Path("a.heic"))
        (True, True, False)
    """
    return entry.name[:1] == "." or entry.name.lower() in _LEFTOVERS


def walk(folder: Path) -> list[Path]:
    """Return all files and folders in a folder, at any depth, but for those that are ignored, sorted."""
    return sorted(
        entry
        for entry in folder.rglob("*")
        if not any(is_ignored(Path(part)) for part in entry.relative_to(folder).parts)
    )


def warn_of_passed_over(folder: Path, entries: Iterable[Path], *, kind: str, stacklevel: int = 3) -> None:
    """Warn once of everything in a folder that is passed over; of nothing where nothing is.

    Args:
        folder: The folder that was looked through.
        entries: What is not taken; what is to be ignored may be among them.
        kind: What is taken, such as "images".
        stacklevel: Of the warning; 3 names the caller's caller.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_passed_over(Path("pets"), [Path("pets/cat/1.HEIC")], kind="images")
        >>> print(caught[0].message)
        1 entry of pets is passed over, not being images by ending and place: .heic (1); first pets/cat/1.HEIC
    """
    left = [entry for entry in entries if not is_ignored(entry)]
    if not left:
        return
    counts = Counter(
        "folders" if entry.is_dir() else entry.suffix.lower() or "no ending" for entry in left
    ).most_common()
    named = ", ".join(f"{ending} ({number})" for ending, number in counts[:_MOST_NAMED])
    more = f" and {len(counts) - _MOST_NAMED} other endings" if len(counts) > _MOST_NAMED else ""
    several = "1 entry" if len(left) == 1 else f"{len(left)} entries"
    warnings.warn(
        f"{several} of {folder} {'is' if len(left) == 1 else 'are'} passed over, not being {kind} by ending "
        f"and place: {named}{more}; first {left[0]}",
        UserWarning,
        stacklevel=stacklevel,
    )


def split_of(relative_path: str) -> str:
    """Return the split of a file in a folder that has no split folders.

    Args:
        relative_path: The path below ``data_dir``, with forward slashes.

    Example:
        >>> split_of("cat/1.png")
        'train'
    """
    # A file name need not be valid UTF-8; its bytes are taken as they are then.
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    return (("train",) * 8 + ("validation", "test"))[int.from_bytes(digest, "big") % 10]
