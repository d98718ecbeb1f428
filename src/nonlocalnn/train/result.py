"""What a run came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Args:
        output: The run's folder.
        metric: Name of the task's score.
        best_epoch: Number of the epoch with the best validation score, from 1; None before the first.
        best_metric: That score.
        test: What the task's ``evaluate`` found on the test data with the best weights; None where the run
            was interrupted.
        steps: Optimiser steps taken, over all the parts of a resumed run.
        seconds: Time that the training steps took, over all the parts of a resumed run.
        signal_number: The signal that interrupted the run; None where it finished.
    """

    output: Path
    metric: str
    best_epoch: int | None
    best_metric: float | None
    test: dict[str, Any] | None
    steps: int
    seconds: float
    signal_number: int | None

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run; resume it to go on."""
        return self.signal_number is not None

    @classmethod
    def from_metrics(cls, output: Path, metrics: dict[str, Any], *, metric: str) -> "TrainResult":
        """Return the result of a finished run from what its ``metrics.json`` holds.

        Args:
            output: The run's folder.
            metrics: The file's content.
            metric: Name of the task's score.
        """
        return cls(
            output=output,
            metric=metric,
            best_epoch=metrics["best_epoch"],
            best_metric=metrics[f"validation_{metric}"],
            test=metrics["test"],
            steps=metrics["steps"],
            seconds=metrics["seconds"],
            signal_number=None,
        )
