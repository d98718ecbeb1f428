"""Saving a run while it trains: its state, and the log and weights that follow from the state."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import nn

from nonlocalnn.checkpoints import save_checkpoint
from nonlocalnn.tasks.contract import Samples, Task
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.train.learner import Learner
from nonlocalnn.train.log import write_log
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.parallel.layout import Sharded
from nonlocalnn.train.state.checkpoint import Position, TrainingState, write_state
from nonlocalnn.train.state.sharded import ShardedWriter


def best_row(rows: list[dict[str, Any]], *, metric: str, keep: str) -> dict[str, Any] | None:
    """Return the log's row of the epoch to keep: the first with the best score, or the last.

    NaN counts as the worst score.

    Args:
        rows: The log.
        metric: Name of the task's score.
        keep: "best" or "last".

    Example:
        >>> rows = [{"epoch": 1, "validation_accuracy": 0.5}, {"epoch": 2, "validation_accuracy": 0.5}]
        >>> best_row(rows, metric="accuracy", keep="best")["epoch"]
        1
    """
    if keep == "last":
        return rows[-1] if rows else None
    name = f"validation_{metric}"
    return max(rows, key=lambda row: -math.inf if math.isnan(row[name]) else row[name], default=None)


class Keeper:
    """Saves a run: first its state, then its log and weights. Every rank must call each method.

    The main rank writes all files before :meth:`save` returns, ``last.pt`` first. The states of a sharded
    run are written in the background, see :class:`~nonlocalnn.train.state.sharded.ShardedWriter`.

    Args:
        recipe: The run's recipe.
        task: What is learnt.
        learner: The network and its optimiser.
        group: The processes of the run.
        samples: The training data.
    """

    def __init__(
        self, recipe: Recipe, *, task: Task[Any], learner: Learner, group: Group, samples: Samples
    ) -> None:
        self._recipe = recipe
        self._task = task
        self._learner = learner
        self._group = group
        self._samples = samples
        self._writer = ShardedWriter(recipe.output, group) if isinstance(learner.network, Sharded) else None

    def save(self, position: Position) -> None:
        """Save the run at ``position``."""
        state = TrainingState(
            recipe=self._recipe.to_dict(),
            num_samples=len(self._samples),
            world_size=self._group.world_size,
            position=position,
            learner={},
        )
        if self._writer is not None:
            self._save_sharded(self._writer, state)
            return
        if self._group.is_main:
            write_state(self._recipe.output, replace(state, learner=self._learner.state_dict()))
            self._write(position, self._learner.model)
        # torchrun stops all processes when one exits: every rank waits here until the main one has written.
        self._group.barrier()

    def _save_sharded(self, writer: ShardedWriter, state: TrainingState) -> None:
        # The previous state may still be written from the copy of the weights that is overwritten here.
        writer.finish()
        self._group.share_buffers(self._learner.model)
        network = self._learner.network
        assert isinstance(network, Sharded)
        weights = network.gathered()
        writer.start(
            replace(state, learner={"scaler": self._learner.scaler_state()}),
            self._learner.tensors(),
            then=lambda: self._write(state.position, weights),
        )

    def write_followers(self, position: Position) -> None:
        """Write the log and weights of a saved state: the process may have died before it wrote them."""
        with self._learner.network.whole() as weights:
            if self._group.is_main:
                self._write(position, weights)

    def finish(self) -> None:
        """Wait until everything is saved.

        Raises:
            OSError: The last state could not be written.
        """
        if self._writer is not None:
            self._writer.finish()

    def close(self) -> None:
        """Wait for what is written in the background, without raising its errors."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, position: Position, weights: nn.Module) -> None:
        folder = self._recipe.output
        write_log(folder, position.rows)
        metadata = {
            **self._task.metadata(self._samples),
            "recipe": self._recipe.to_dict(),
            "epoch": position.epoch,
            "step": position.steps,
        }
        best = best_row(position.rows, metric=self._task.metric, keep=self._recipe.keep)
        if position.step == 0 and best is not None:
            name = f"validation_{self._task.metric}"
            metadata[name] = position.rows[-1][name]
            if best["epoch"] == position.epoch:
                save_checkpoint(weights, folder / "best.safetensors", metadata=metadata)
        save_checkpoint(weights, folder / "last.safetensors", metadata=metadata)
