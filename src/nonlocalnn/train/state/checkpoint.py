"""The state of a run on disk: enough to go on as if it had never stopped."""

import dataclasses
import os
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from nonlocalnn._errors import one_line
from nonlocalnn._files import atomic_path
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.checkpoints.state import check_zip
from nonlocalnn.tasks.recipe import Recipe

_FORMAT = 1
_NAMES = ("last.pt", "last.previous.pt")


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Args:
        epoch: Epochs done.
        step: Steps done in the epoch under way.
        sums: Sums over those steps of what each of them logged.
        seconds: Time those steps took.
        rows: The log, one row for each epoch done.
        own_seconds: Of each rank, the time of those steps until it first waited for the others; on as many
            ranks as train now.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    own_seconds: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimiser steps done in the whole run."""
        return (self.rows[-1]["step"] if self.rows else 0) + self.step

    def is_end_of(self, recipe: Recipe) -> bool:
        """Return whether nothing of ``recipe`` is left to train."""
        if recipe.iterations is None:
            return self.epoch == recipe.epochs
        return self.steps == recipe.iterations


@dataclass(frozen=True)
class TrainingState:
    """What is saved between two steps.

    Args:
        recipe: The recipe, as JSON values.
        num_samples: Samples in the training data.
        world_size: Processes that trained.
        position: How far the run has come.
        learner: Weights, optimiser and scaler.
        instead_of: The newer state that was there and is damaged; None where this is the newest.
    """

    recipe: dict[str, Any]
    num_samples: int
    world_size: int
    position: Position
    learner: dict[str, Any]
    instead_of: Path | None = None

    def to_values(self) -> dict[str, Any]:
        """Return what is saved, in plain containers; :meth:`from_values` is the way back."""
        return {
            "recipe": self.recipe,
            "num_samples": self.num_samples,
            "world_size": self.world_size,
            "position": dataclasses.asdict(self.position),
            "learner": self.learner,
        }

    @classmethod
    def from_values(cls, values: dict[str, Any], path: Path) -> Self:
        """Return the state of which ``path`` holds the values.

        Raises:
            CheckpointError: One is missing.
        """
        try:
            names = ("recipe", "num_samples", "world_size", "learner")
            return cls(position=Position(**values["position"]), **{name: values[name] for name in names})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} lacks a part of a training state: {one_line(error)}") from error

    def check(self, recipe: Recipe) -> None:
        """Check that ``recipe`` goes on with what this state began.

        Raises:
            ValueError: A field that changes the mathematics differs, or fewer epochs are asked for than done.
        """
        changed = recipe.changed_fields(self.recipe)
        if changed:
            values = recipe.to_dict()
            listed = ", ".join(
                f"{name} was {self.recipe.get(name)!r} and is now {values[name]!r}" for name in changed
            )
            raise ValueError(
                f"the run cannot be resumed with another recipe: {listed}; "
                "restore these or start a new run in another output folder"
            )
        name, done = "epochs", self.position.epoch + (self.position.step > 0)
        if recipe.iterations is not None:
            name, done = "iterations", self.position.steps
        if getattr(recipe, name) < done:
            raise ValueError(
                f"{name} must be at least {done}, to which the run has come; got {getattr(recipe, name)}"
            )


def has_state(folder: Path) -> bool:
    """Return whether ``folder`` holds a state, whole or not."""
    return any((folder / name).exists() for name in _NAMES)


def write_state(folder: Path, state: TrainingState) -> None:
    """Write ``last.pt``; the one before it stays as ``last.previous.pt``."""
    newest, previous = (folder / name for name in _NAMES)
    payload = {"format": _FORMAT, **state.to_values()}
    with atomic_path(newest) as temporary:
        try:
            torch.save(payload, temporary)
        except RuntimeError as error:
            raise OSError(f"cannot write {newest}; is the disk full? {one_line(error)}") from error
        # Only now, with the new state written: at every moment one of the two names is a whole state.
        if newest.exists():
            os.replace(newest, previous)


def read_state(folder: Path) -> TrainingState:
    """Read the newest whole state in ``folder``, with its tensors on the CPU.

    A missing or damaged ``last.pt`` gives a warning, and ``last.previous.pt`` is read.

    Raises:
        FileNotFoundError: There is no state.
        CheckpointError: No file there is whole.
    """
    if not has_state(folder):
        raise FileNotFoundError(f"there is no run to resume in {folder}: {_NAMES[0]} is missing")
    newest, previous = (folder / name for name in _NAMES)
    try:
        return _read(newest)
    except (CheckpointError, FileNotFoundError) as error:
        if not previous.exists():
            raise
        reason = error
    state = _read(previous)
    warnings.warn(f"{reason}; going on from the older {previous}", UserWarning, stacklevel=2)
    return dataclasses.replace(state, instead_of=newest)


def _read(path: Path) -> TrainingState:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    check_zip(path)
    try:
        # torch.load does not compare the checksums; a flipped bit in a weight would go unseen.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        payload = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What a damaged file raises depends on the damage: OSError, EOFError, RuntimeError, KeyError, ...
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    if payload is None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")
    if not isinstance(payload, dict) or payload.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a training state of format {_FORMAT}")
    return TrainingState.from_values(payload, path)
