"""``nonlocalnn models``."""

from __future__ import annotations

from collections.abc import Sequence

from nonlocalnn.cli.common import command_parser
from nonlocalnn.models import create_model, list_models


def run(words: Sequence[str]) -> int:
    """Print each network's name and number of parameters."""
    command_parser("models", "The networks that can be made by name.", "nonlocalnn models").parse_args(words)
    for name in list_models():
        count = sum(parameter.numel() for parameter in create_model(name).parameters())
        print(f"{name:<20}{count:>12,} parameters")
    return 0
