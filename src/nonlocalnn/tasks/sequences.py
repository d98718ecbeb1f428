"""Sequences: generated ones; files of them are not read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput


class Sequences(InputKind):
    """Samples (C, N)."""

    name = "sequence"
    samples = "sequences"
    num_sides = 1
    datasets = ("cue-sequence",)

    def network_for(self, data: str) -> str:
        """See :meth:`InputKind.network_for`."""
        return "nl2_c1d_tiny"

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """Refuse: there is no file of a sequence.

        Raises:
            ValueError: Always.
        """
        raise _no_files()

    def read(self, path: Path, facts: Facts, *, views: int | None = None) -> Tensor:
        """See :meth:`find`."""
        raise _no_files()

    def prepare(self, read: Tensor, facts: Facts) -> Tensor:
        """See :meth:`find`."""
        raise _no_files()

    def show(self, path: Path, facts: Facts, *, whole: bool) -> ShownInput:
        """See :meth:`find`."""
        raise _no_files()


def _no_files() -> ValueError:
    return ValueError("images and videos can be read from files; this model takes sequences")
