"""Saving a run while it trains: its state, and the log and weights that follow from the state."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from nonlocalnn._files import write_text
from nonlocalnn.checkpoints import save_checkpoint
from nonlocalnn.tasks.contract import Samples, Task
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.train.learner import Learner
from nonlocalnn.train.log import write_log, write_tensorboard
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.parallel.layout import Sharded
from nonlocalnn.train.state import checkpoint as names
from nonlocalnn.train.state.checkpoint import Position, TrainingState, fingerprint, reason_of

_UNFINISHED = "last.new"


def best_row(rows: list[dict[str, Any]], *, metric: str, keep: str) -> dict[str, Any] | None:
    """Return the log's row of the epoch to keep: the one with the best score, or the last.

    Of equal scores, which small validation sets have often, the lowest validation loss wins, and of equal
    losses the first. NaN counts as the worst score and loss.

    Args:
        rows: The log.
        metric: Name of the task's score.
        keep: "best" or "last".

    Example:
        >>> losses = (0.26, 0.007)
        >>> rows = [{"epoch": n, "validation_accuracy": 0.9, "validation_loss": losses[n]} for n in (0, 1)]
        >>> best_row(rows, metric="accuracy", keep="best")["epoch"]
        1
    """
    if keep == "last":
        return rows[-1] if rows else None
    score = f"validation_{metric}"

    def merit(row: dict[str, Any]) -> tuple[float, float]:
        # Detectors have no loss of what they answer.
        pair = (row[score], -row.get("validation_loss", 0.0))
        return tuple(-math.inf if math.isnan(value) else value for value in pair)  # type: ignore[return-value]

    return max(rows, key=merit, default=None)


class StateWriter:
    """Writes the states of a run; every rank calls each method.

    A state is written to ``last.new/``; once it is whole, the one before it becomes ``last.previous/`` and it
    becomes ``last/``. At every moment one of the two names is a whole state.

    Args:
        folder: The run's folder.
        group: The processes of the run.
        in_background: Whether to copy the tensors and write them while the training goes on.
    """

    def __init__(self, folder: Path, group: Group, *, in_background: bool) -> None:
        self._folder = folder
        self._group = group
        self._in_background = in_background
        # Exchanges of the background must not meet those of the training.
        self._ranks = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if group.is_joined else None
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def start(self, state: TrainingState, tensors: dict[str, Tensor], then: Callable[[], None]) -> None:
        """Write a state, or begin to, when the one before it is written.

        Args:
            state: All but the tensors.
            tensors: Of this rank, by name; what several ranks hold whole is the same on each.
            then: Called by the main rank once the state is in its place.

        Raises:
            OSError: This state, or the one before it, could not be written.
        """
        self.finish()
        unfinished = self._folder / _UNFINISHED
        if self._group.is_main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._group.barrier()
        if self._in_background:
            copies = FileSystemWriter(unfinished).stage(tensors)
            self._pending = self._thread.submit(self._write, state, copies, then)
        else:
            self._write(state, tensors, then)

    def finish(self) -> None:
        """Wait until the state under way is in its place.

        Raises:
            OSError: It could not be written; the states before it are still there.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for what is under way, whatever becomes of it, and for the thread."""
        self._thread.shutdown(wait=True)

    def _write(self, state: TrainingState, tensors: dict[str, Tensor], then: Callable[[], None]) -> None:
        unfinished = self._folder / _UNFINISHED
        alone = self._ranks is None
        try:
            # PyTorch warns of a process that is alone. Threads, which others may have, share such filters.
            with warnings.catch_warnings(action="ignore") if alone else nullcontext():
                writer = FileSystemWriter(unfinished)
                save(tensors, storage_writer=writer, process_group=self._ranks, no_dist=alone)
        except CheckpointException as error:  # no Exception, as PyTorch has it
            raise reason_of(error, OSError, f"cannot write {unfinished}; is the disk full?") from error
        rank = self._group.rank
        own = {path.name: fingerprint(path) for path in unfinished.glob(f"__{rank}_*")}
        files = {name: facts for each in self._exchange(own) for name, facts in each.items()}
        failure: Exception | None = None
        if self._group.is_main:
            try:
                self._put_in_place(state, files)
                then()
            except Exception as error:  # the other ranks wait to hear of it, whatever it is
                failure = error
        said = self._exchange(failure and f"{type(failure).__name__}: {failure}")[0]
        if said:
            raise failure or OSError(f"the main process cannot save in {self._folder}: {said}")

    def _exchange(self, value: Any) -> list[Any]:
        values: list[Any] = [value] * self._group.world_size
        if self._ranks is not None:
            dist.all_gather_object(values, value, group=self._ranks)
        return values

    def _put_in_place(self, state: TrainingState, files: dict[str, list[int]]) -> None:
        newest, previous, unfinished = (
            self._folder / name for name in (names.NEWEST, names.PREVIOUS, _UNFINISHED)
        )
        manifest = {
            "format": names.FORMAT,
            **state.to_values(),
            "files": {**files, ".metadata": fingerprint(unfinished / ".metadata")},
        }
        # Last of all: a folder with a manifest is a whole one.
        write_text(unfinished / names.MANIFEST, json.dumps(manifest))
        if newest.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(newest, previous)
            for name in names.OLD:
                (self._folder / name).unlink(missing_ok=True)
        os.replace(unfinished, newest)


class RunSaver:
    """Saves a run: first its state, then its log and weights. Every rank must call each method.

    A network that is whole on each rank is saved before :meth:`save` returns, without a copy of it; one in
    shards in the background.

    Args:
        recipe: The run's recipe.
        task: What is learnt.
        learner: The network and its optimiser.
        group: The processes of the run.
        samples: The training data.

    Attributes:
        writer: What writes the states; one waits for it.
    """

    def __init__(
        self, recipe: Recipe, *, task: Task[Any], learner: Learner, group: Group, samples: Samples
    ) -> None:
        self._recipe = recipe
        self._task = task
        self._learner = learner
        self._group = group
        self._samples = samples
        # Weights that are whole need no copy to be written; the training waits for that.
        in_background = isinstance(learner.network, Sharded)
        self.writer = StateWriter(recipe.output, group, in_background=in_background)

    def save(self, position: Position) -> None:
        """Save the run at ``position``."""
        # The files of the state before are written from the copy that is filled again here.
        self.writer.finish()
        self._group.share_buffers(self._learner.model)
        weights = self._learner.network.gathered()
        state = TrainingState(
            recipe=self._recipe.to_dict(),
            num_samples=len(self._samples),
            world_size=self._group.world_size,
            position=position,
            learner={"scaler": self._learner.scaler_state()},
            classes=self._task.metadata(self._samples).get("classes"),
        )
        self.writer.start(state, self._learner.tensors(), lambda: self._write(position, weights))

    def write_followers(self, position: Position) -> None:
        """Write the log and weights of a saved state: the process may have died before it wrote them."""
        with self._learner.network.whole() as weights:
            if self._group.is_main:
                self._write(position, weights)

    def _write(self, position: Position, weights: nn.Module) -> None:
        folder = self._recipe.output
        write_log(folder, position.rows)
        if self._recipe.tensorboard and position.rows:
            write_tensorboard(folder, position.rows)
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
