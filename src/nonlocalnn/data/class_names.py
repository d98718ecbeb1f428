"""Names of the classes of a data set, and files of them, one a line."""

import warnings
from collections.abc import Iterable
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
