"""Whether a folder holds a run, and where that run has come to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.state.checkpoint import TrainingState, has_state, read_state
from nonlocalnn.train.state.sharded import has_sharded_state, read_sharded_state

Resume = bool | Literal["if any"]


def state_to_resume(folder: Path, group: Group, resume: Resume) -> TrainingState | None:
    """Return the state from which a run goes on; None where it begins. Every rank must call this.

    Args:
        folder: The run's folder.
        group: The processes of the run.
        resume: Whether to go on with the run in ``folder``; "if any" asks the main rank whether there is one.

    Raises:
        ValueError: There is a run, and ``resume`` is False.
        FileNotFoundError: There is no run, and ``resume`` is True.
        CheckpointError: No state there is whole.
    """
    if resume == "if any":
        # A file system that several machines share may not show all of them the same at once.
        resume = group.agree(has_state(folder) or has_sharded_state(folder))
    if resume:
        return read_sharded_state(folder, group) if has_sharded_state(folder) else read_state(folder)
    names = ("best.safetensors", "metrics.json")
    if has_state(folder) or has_sharded_state(folder) or any((folder / name).exists() for name in names):
        raise ValueError(f"{folder} already holds a run: use --resume to go on, or another --output")
    return None


def remove_damaged(state: TrainingState) -> None:
    """Remove the damaged state in whose place ``state`` was read.

    The next save would keep it as the one before, and remove the only whole one for that. All ranks must have
    read what they need; one of them calls this.
    """
    damaged = state.instead_of
    if damaged is not None and damaged.is_dir():
        shutil.rmtree(damaged)
    elif damaged is not None:
        damaged.unlink(missing_ok=True)
