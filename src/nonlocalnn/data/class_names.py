"""Files that name the classes of a data set, one a line."""

from pathlib import Path

from nonlocalnn._files import read_lines


def read_class_names(path: Path) -> list[str]:
    """Return the names of the classes in a file, in its order.

    Raises:
        ValueError: It names none, or one twice.
    """
    names = read_lines(path)
    if not names:
        raise ValueError(f"{path} must name a class at least, one a line; it is empty")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} must name each class once; {twice!r} is there twice")
    return names
