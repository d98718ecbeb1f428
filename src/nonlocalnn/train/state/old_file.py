"""States as they once were: one file, ``last.pt``, and ``last.previous.pt``, the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.checkpoints.state import check_zip
from nonlocalnn.train.state.checkpoint import FORMAT, TrainingState


def read_old_state(path: Path) -> TrainingState:
    """Return the state in a file, with its tensors on the CPU.

    Raises:
        CheckpointError: It is no such state.
        Exception: It is damaged; which one depends on the damage.
    """
    check_zip(path)  # compares the checksums, which torch.load does not
    payload = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training state of format {FORMAT}")
    return TrainingState.from_values(payload, path)


def old_tensors(learner: dict[str, Any], parameters: list[str]) -> dict[str, Tensor]:
    """Return the tensors of such a state by the names of today.

    Args:
        learner: The state's ``learner``.
        parameters: Names of the parameters, in the optimiser's order.
    """
    named = {f"model.{name}": value for name, value in learner["model"].items()}
    for number, kept in learner["optimizer"]["state"].items():
        for key, value in kept.items():
            if isinstance(value, Tensor):
                named[f"optimizer.{parameters[number]}.{key}"] = value
    return named
