"""Numbers that stand in files as text."""


def number_in(text: str) -> float:
    """Return the number that a text is, as programs write it.

    Underscores, which Python's own numbers may have, are of names: 2024_01 is a month.

    Raises:
        ValueError: It is none.

    Example:
        >>> number_in(" 1e-3")
        0.001
        >>> number_in("2024_01")
        Traceback (most recent call last):
            ...
        ValueError: '2024_01' is no number
    """
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def is_number(text: str) -> bool:
    """Return whether a text is a number; see :func:`number_in`.

    Example:
        >>> is_number(" 1e-3"), is_number("1,5"), is_number("1_5"), is_number("x1")
        (True, False, False, False)
    """
    try:
        number_in(text)
    except ValueError:
        return False
    return True
