"""Names of tensors in another code base, and ours: one table, read both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nonlocalnn.checkpoints.state import CheckpointError, State

_NUMBER = {str(number): str(number) for number in range(1, 5)}
_STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# What stands for a field on their side, and what on ours.
_FIELDS: dict[str, Mapping[str, str] | None] = {
    "place": None,  # any number, the same on both sides
    "res": {"2": "1", "3": "2", "4": "3", "5": "4"},  # their res2 is our layer1
    "layer": _NUMBER,
    "conv": _NUMBER,
    "letter": {"a": "1", "b": "2", "c": "3"},
    "part": {name: name for name in _STATISTICS},
    "short": {"w": "weight", "b": "bias"},
    "statistic": {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"},
}


class KeyNames:
    """A two-way table of names with fields in them.

    Args:
        rows: Pairs of their name and ours, such as ``("res{res}_{place}_w", "layer{res}.{place}.weight")``.

    Example:
        >>> names = KeyNames([("res{res}_{place}_w", "layer{res}.{place}.weight")])
        >>> names.ours("res2_10_w"), names.theirs("layer4.0.weight"), names.ours("else")
        ('layer1.10.weight', 'res5_0_w', None)
    """

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        # One table for both directions: import and export cannot drift apart.
        rows = list(rows)
        self._to_ours = [(_pattern(theirs, ours=False), ours) for theirs, ours in rows]
        self._to_theirs = [(_pattern(ours, ours=True), theirs) for theirs, ours in rows]

    def ours(self, key: str) -> str | None:
        """Return our name of a tensor; None where the table has none."""
        return _translate(key, self._to_ours, ours=True)

    def theirs(self, key: str) -> str | None:
        """Return their name of a tensor; None where the table has none."""
        return _translate(key, self._to_theirs, ours=False)

    def state_to_ours(self, state: State) -> State:
        """Return a state dict under our names; tensors without one keep their own.

        Raises:
            CheckpointError: Two tensors have one name.
        """
        renamed = {self.ours(key) or key: value for key, value in state.items()}
        if len(renamed) != len(state):
            raise CheckpointError("it holds one tensor under two names")
        return renamed

    def state_to_theirs(self, state: State) -> State:
        """Return a state dict under their names.

        Raises:
            CheckpointError: A tensor has none.
        """
        theirs = {key: self.theirs(key) for key in state}
        strangers = [key for key, name in theirs.items() if name is None]
        if strangers:
            raise CheckpointError(f"its networks have no place for {strangers[0]} (of {len(strangers)} such)")
        return {name: state[key] for key, name in theirs.items() if name is not None}


def _pattern(template: str, *, ours: bool) -> re.Pattern[str]:
    def group(field: re.Match[str]) -> str:
        values = _FIELDS[field[1]]
        if values is None:
            return rf"(?P<{field[1]}>0|[1-9]\d*)"
        return f"(?P<{field[1]}>{'|'.join(values.values() if ours else values)})"

    literal = template.replace(".", r"\.")
    return re.compile(re.sub(r"\{(\w+)\}", group, literal), re.ASCII)


def _translate(key: str, table: list[tuple[re.Pattern[str], str]], *, ours: bool) -> str | None:
    for pattern, template in table:
        found = pattern.fullmatch(key)
        if found is None:
            continue
        fields = {}
        for name, value in found.groupdict().items():
            values = _FIELDS[name]
            if values is None:
                fields[name] = value
            else:
                fields[name] = values[value] if ours else {b: a for a, b in values.items()}[value]
        return template.format(**fields)
    return None
