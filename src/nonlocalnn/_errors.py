"""Wording of errors and other lines that several rooms share."""

import difflib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

_MOST_LISTED = 12
_LONGEST_VALUE = 200


def near_miss(value: object, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the allowed name nearest to ``value``, or an empty string."""
    matches = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    Example:
        >>> counted(1, "class"), counted(2, "class"), counted(0, "channel")
        ('1 class', '2 classes', '0 channels')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def check_tensor(name: str, value: object) -> None:
    """Check that ``value`` is a tensor.

    Raises:
        TypeError: It is something else, such as a NumPy array.

    Example:
        >>> check_tensor("x", [1.0])
        Traceback (most recent call last):
            ...
        TypeError: x must be a torch.Tensor; got a list: torch.as_tensor makes one of arrays and lists
    """
    # Not isinstance: what torch.fx traces with is no tensor and stands for one.
    if not hasattr(value, "dim"):
        kind = type(value)
        name_of_kind = (
            kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        )
        raise TypeError(
            f"{name} must be a torch.Tensor; got a {name_of_kind}: torch.as_tensor makes one of arrays and "
            "lists"
        )


def check_module(model: object) -> None:
    """Check that a model is a module, and not its name, its class or its state dict.

    Raises:
        TypeError: It is none.

    Example:
        >>> check_module({})
        Traceback (most recent call last):
            ...
        TypeError: model must be a torch.nn.Module; got a dict: make a network by its name or class, load ...
    """
    # Not isinstance: torch takes seconds to import, and this file is imported without it.
    if isinstance(model, type) or not hasattr(model, "named_modules"):
        raise TypeError(
            f"model must be a torch.nn.Module; got a {type(model).__name__}: make a network by its name or "
            "class, load a state dict into one, or call a function in the forward of one"
        )


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Check that ``value`` is one of ``allowed``.

    Raises:
        ValueError: It is not; the message lists what is allowed, the first dozen, and the nearest spelling.
    """
    if value in allowed:
        return
    listed = ", ".join(repr(choice) for choice in allowed[:_MOST_LISTED])
    if len(allowed) > _MOST_LISTED:
        listed += f" and {len(allowed) - _MOST_LISTED} more"
    hint = near_miss(value, [choice for choice in allowed if isinstance(choice, str)])
    raise ValueError(f"{name} must be one of {listed}; got {repr(value)[:_LONGEST_VALUE]}{hint}")


def check_whole(name: str, value: object, *, least: int = 1, most: int = 2**40) -> None:
    """Check that ``value`` is a whole number from ``least`` to ``most``.

    Raises:
        ValueError: It is not.

    Example:
        >>> check_whole("width", 0)
        Traceback (most recent call last):
            ...
        ValueError: width must be a whole number of at least 1; got 0
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        allowed = f"of at least {least}" if most == 2**40 else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {allowed}; got {repr(value)[:_LONGEST_VALUE]}")


def check_positive(**values: object) -> None:
    """Check that each value is a whole number of at least 1.

    Raises:
        ValueError: One is not; the message names it.
    """
    for name, value in values.items():
        check_whole(name, value)


def check_spacing(spacing: Sequence[float] | None) -> None:
    """Check that the spacing of volumes is three lengths in millimetres, or None.

    Raises:
        ValueError: It is not.

    Example:
        >>> check_spacing([1.0, 0.0, 1.0])
        Traceback (most recent call last):
            ...
        ValueError: spacing must be three numbers above zero, the millimetres between slices, rows and ...
    """
    if spacing is not None and (
        len(spacing) != 3 or not all(is_finite(each) and each > 0 for each in spacing)
    ):
        raise ValueError(
            "spacing must be three numbers above zero, the millimetres between slices, rows and columns; got "
            f"{list(spacing)}"
        )


def check_intensity(intensity: Sequence[float] | None) -> None:
    """Check that the window of intensities of volumes is two numbers that ascend, or None.

    Raises:
        ValueError: It is not.

    Example:
        >>> check_intensity((-160.0, 240.0))
    """
    if intensity is None:
        return
    if len(intensity) != 2 or not all(map(is_finite, intensity)) or not intensity[0] < intensity[1]:
        raise ValueError(
            "intensity must be two numbers that ascend, the lowest and the highest value; got "
            f"{list(intensity)}"
        )


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def one_line(error: BaseException) -> str:
    """Return what another library's error says, in one line of 300 letters at most; else its kind.

    Example:
        >>> one_line(ValueError(f"first{chr(10)}  second"))
        'first second'
    """
    return " ".join(str(error).split())[:300] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return what another library's error says first, where it goes on for pages; else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def needs(library: str | None, extra: str, purpose: str) -> Iterator[None]:
    """Let imports of an optional library fail with the extra to install; None takes the name of what fails.

    Example:
        >>> with needs(None, "data", "a page"):
        ...     import no_such_library
        Traceback (most recent call last):
            ...
        ImportError: a page needs the library 'no_such_library', which is not installed: ...
    """
    try:
        yield
    except ImportError as error:
        raise missing_extra(library or error.name or extra, extra, purpose) from error


@contextmanager
def silent(logger: str) -> Iterator[None]:
    """Silence what a library logs under this name of what is an answer, or is said by us."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def missing_extra(library: str, extra: str, purpose: str) -> ImportError:
    """Return the error for an optional library that is not installed."""
    return ImportError(
        f"{purpose} needs the library {library!r}, which is not installed: "
        f"run pip install 'nonlocalnn[{extra}]'"
    )
