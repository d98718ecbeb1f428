"""What is saved of a run: enough to go on as if it had never stopped."""

import dataclasses
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch.distributed.checkpoint.api import CheckpointException

from nonlocalnn._errors import one_line
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.tasks.recipe import Recipe

FORMAT = 1
NEWEST, PREVIOUS = "last", "last.previous"
# Each one file, as states once were.
OLD = ("last.pt", "last.previous.pt")
MANIFEST = "manifest.json"
_SAVED = ("recipe", "num_samples", "world_size", "position", "learner")


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
    """What is saved between two steps, but for the tensors.

    Args:
        recipe: The recipe, as JSON values.
        num_samples: Samples in the training data.
        world_size: Processes that trained.
        position: How far the run has come.
        learner: The scaler; of a state in an old file also the weights and the optimiser.
        classes: Names of the classes; None of states that do not say.
        path: Where it was read.
    """

    recipe: dict[str, Any]
    num_samples: int
    world_size: int
    position: Position
    learner: dict[str, Any]
    classes: list[str] | None = None
    path: Path = Path()

    def to_values(self) -> dict[str, Any]:
        """Return what is saved, in plain containers; :meth:`from_values` is the way back."""
        values = dataclasses.asdict(self)
        return {name: values[name] for name in (*_SAVED, "classes")}

    @classmethod
    def from_values(cls, values: dict[str, Any], path: Path) -> Self:
        """Return the state whose values ``path`` holds.

        Raises:
            CheckpointError: One is missing.
        """
        try:
            given = {name: values[name] for name in _SAVED} | {"classes": values.get("classes")}
            return cls(**{**given, "position": Position(**given["position"])}, path=path)
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


def fingerprint(path: Path) -> list[int]:
    """Return the size of a file in bytes and its CRC-32."""
    size = checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return [size, checksum]


def reason_of(error: CheckpointException, kind: type[Exception], what: str) -> BaseException:
    """Return what went wrong on the first of the ranks that failed, as an error of a kind."""
    reason = next(iter(error.failures.values()))[0]
    return kind(f"{what}: {one_line(reason)}") if isinstance(reason, Exception) else reason
