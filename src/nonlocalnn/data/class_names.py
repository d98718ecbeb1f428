"""Names of the classes of a data set, and files of them, one a line."""

import unicodedata
import warnings
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

from nonlocalnn._files import read_lines
from nonlocalnn.data.folder_files import spelt_alike


def read_class_names(path: Path) -> list[str]:
    """Return the names of the classes in a file, in its order.

    Raises:
        ValueError: It names none, or one twice, or has a comment, by which all numbers would be others.
    """
    names = read_lines(path)
    comment = next((name for name in names if name.startswith(("# ", "#\t"))), None)
    if comment is not None:
        raise ValueError(f"{path} must name a class a line, and no more; take the line {comment!r} out")
    if not names:
        raise ValueError(f"{path} must name a class at least, one a line; it is empty")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} must name each class once; {twice!r} is there twice")
    return names


def warn_of_alike(names: Iterable[str]) -> None:
    """Warn of classes that are told apart by case, spaces or how accents are stored alone.

    Single letters are, where letters are what is to be read.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_alike(["A", "a", "dog", "Dog"])
        >>> print(str(caught[0].message).partition(":")[0])
        the classes 'dog' and 'Dog' differ by case, spaces or how accents are stored alone
    """
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(spelt_alike(name), name)
        if other != name and len(name) > 1:
            warnings.warn(
                f"the classes {other!r} and {name!r} differ by case, spaces or how accents are stored alone: "
                "join them, if one is meant",
                stacklevel=4,
            )


def first_difference(known: Iterable[str], found: Iterable[str]) -> str | None:
    """Return in words where the names of two data sets differ first; None where they are the same.

    Letters and their accents may be stored apart in one and together in the other, as macOS does.

    Example:
        >>> first_difference(["cat", "dog"], ["cat", "cow"])
        "the first that differ, number 1, are 'dog' and 'cow'"
    """
    for number, (mine, other) in enumerate(zip_longest(known, found)):
        if None in (mine, other) or unicodedata.normalize("NFC", mine) != unicodedata.normalize("NFC", other):
            return f"the first that differ, number {number}, are {mine!r} and {other!r}"
    return None
