"""Numbers in files of marks, which tables and some tools write as text."""

from __future__ import annotations

import math
from typing import Any

from nonlocalnn.data.number_text import number_in

_MOST_DIGITS = 19


def as_number(value: Any) -> float:
    """Return a finite number, which may be text.

    Raises:
        ValueError: It is none.

    Example:
        >>> as_number("2.5"), as_number(3)
        (2.5, 3)
    """
    number = value
    # The first line is for speed: a file has millions of these.
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, str):
        try:
            number = number_in(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{value!r:.40} is no number")
    return number


def as_whole(value: Any) -> int:
    """Return a whole number, which may be text, or have a point.

    Raises:
        ValueError: It is none.

    Example:
        >>> as_whole("7"), as_whole(7.0)
        (7, 7)
    """
    # Not by way of a float, which would round long ids.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _MOST_DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def as_flag(value: Any) -> bool:
    """Return whether a flag is set: 0 or 1, or false or true, which may be text.

    Raises:
        ValueError: It is something else.

    Example:
        >>> as_flag("0"), as_flag(1), as_flag("True")
        (False, True, True)
    """
    word = str(value).strip().lower()
    if word in ("true", "false"):
        return word == "true"
    try:
        number = as_number(value)
    except ValueError:
        number = -1
    if number not in (0, 1):
        raise ValueError(f"must be 0 or 1; got {value!r:.40}")
    return number == 1
