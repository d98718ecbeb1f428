"""Wording of errors that several rooms share."""

import difflib
from collections.abc import Iterable, Sequence

_MOST_LISTED = 12


def near_miss(value: object, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the allowed name nearest to ``value``, or an empty string."""
    matches = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


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
    raise ValueError(f"{name} must be one of {listed}; got {value!r}{hint}")


def missing_extra(library: str, extra: str, purpose: str) -> ImportError:
    """Return the error for an optional library that is not installed."""
    return ImportError(
        f"{purpose} needs the library {library!r}, which is not installed: "
        f"run pip install 'nonlocalnn[{extra}]'"
    )
