"""How many parameters each network by name has, from a table: making them all takes ten seconds."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files


def num_parameters(name: str) -> int:
    """Return the number of parameters of a network of :func:`nonlocalnn.list_models` as the name makes it.

    Example:
        >>> num_parameters("nl_digits")
        401530
    """
    return _table()[name]


@cache
def _table() -> dict[str, int]:
    text = (files("nonlocalnn.models") / "parameters.json").read_text(encoding="utf-8")
    table: dict[str, int] = json.loads(text)
    return table
