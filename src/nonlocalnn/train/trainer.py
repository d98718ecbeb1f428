"""The training loop."""

import json
import math
import time
import warnings
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from nonlocalnn._files import write_text
from nonlocalnn.checkpoints import load_checkpoint, save_checkpoint
from nonlocalnn.train.checkpoint import Position, TrainingState, has_state, read_state, write_state
from nonlocalnn.train.distributed import Group, process_group
from nonlocalnn.train.learner import Learner, Part
from nonlocalnn.train.log import Bar, progress_bar, write_log
from nonlocalnn.train.optimizer import learning_rate
from nonlocalnn.train.order import MicroBatches, SeededSamples, epoch_order, mix, steps_per_epoch
from nonlocalnn.train.recipe import Recipe
from nonlocalnn.train.result import TrainResult
from nonlocalnn.train.signals import StopRequest, leave_signals_to_parent, stop_on_signal
from nonlocalnn.train.starting import start_from_
from nonlocalnn.train.task import Task
from nonlocalnn.train.video_task import task_for


def train(
    recipe: Recipe, *, task: Task[Any] | None = None, resume: bool = False, progress: bool | None = None
) -> TrainResult:
    """Train a network and test the best of its epochs once.

    The folder ``recipe.output`` receives ``recipe.json``; ``log.jsonl`` and ``log.csv``, a row an epoch;
    ``last.pt``, from which the run can be resumed, and ``last.previous.pt``, the one before; the weights
    ``last.safetensors`` and ``best.safetensors``, the first of the epochs with the best validation score; and
    at the end ``metrics.json``. Each file is replaced as a whole.

    SIGTERM or SIGINT ends the run after the step under way, with everything saved. On the CPU, a run that was
    stopped anywhere and resumed on as many processes and threads gives the weights of one that never stopped,
    bit for bit. Under torchrun each process calls this function.

    Args:
        recipe: What to do.
        task: What is learnt; None is the classification that ``recipe`` names.
        resume: Go on with the run in ``recipe.output``; one that is finished only returns its result.
        progress: True shows a bar on stderr and False nothing; None shows a bar on a terminal, and a line an
            epoch elsewhere.

    Raises:
        ValueError: The folder holds a run and ``resume`` is False; the recipe or the data is not that of the
            run to resume; or the batch does not divide among the ranks, or is larger than the data.
        FileNotFoundError: ``resume`` is True and there is no run.
        CheckpointError: The run's saved states are damaged.
        NonFiniteLossError: The loss or the gradient is no longer finite.
    """
    chosen: Task[Any] = task_for(recipe) if task is None else task
    with process_group(recipe.device) as group, stop_on_signal() as stop:
        state = read_state(recipe.output) if resume else None
        if state is None:
            _check_unused(recipe.output)
        else:
            state.check(recipe)
            metrics = recipe.output / "metrics.json"
            if state.position.is_end_of(recipe) and metrics.exists():
                recorded = json.loads(metrics.read_text(encoding="utf-8"))
                return TrainResult.from_metrics(recipe.output, recorded, metric=chosen.metric)
        # Every rank has looked at the folder before the main one writes to it.
        group.barrier()
        # The caller's random numbers are not the run's business, nor the reverse.
        with torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []):
            return _Run(recipe, chosen, group, state).finish(stop, progress)


def _check_unused(folder: Path) -> None:
    if has_state(folder) or any((folder / name).exists() for name in ("best.safetensors", "metrics.json")):
        raise ValueError(f"{folder} already holds a run: use --resume to go on, or another --output")


def _notes(recipe: Recipe) -> list[str]:
    """Return what a person should hear of a run before it starts."""
    if recipe.lr_batch_size in (None, recipe.batch_size):
        return []
    return [
        f"learning rate {recipe.scaled_lr:g}: {recipe.lr:g} is meant for batches of {recipe.lr_batch_size}, "
        f"and these are of {recipe.batch_size}"
    ]


class _Run:
    """A run under way on one rank. ``last.pt`` is the truth; every other file follows from it."""

    def __init__(self, recipe: Recipe, task: Task[Any], group: Group, state: TrainingState | None) -> None:
        self.recipe = recipe
        self.task = task
        self.group = group
        with group.main_first():
            self.train_data = task.data("train")
            self.validation_data = task.data("validation")
        self.steps_per_epoch = steps_per_epoch(len(self.train_data), recipe.batch_size)
        self.num_steps = recipe.num_steps(self.steps_per_epoch)
        if state is not None and state.num_samples != len(self.train_data):
            raise ValueError(
                f"the run began with {state.num_samples} training samples and the data now has "
                f"{len(self.train_data)}: resume with the data it began with"
            )
        self.notes = _notes(recipe)
        torch.manual_seed(mix(recipe.seed, "weights"))
        model = task.model(self.train_data)
        if recipe.start_from is not None and state is None:
            kept = start_from_(model, recipe.start_from)
            self.notes.append(f"weights of {recipe.start_from}; new ones: {', '.join(kept) or 'none'}")
        self.learner = Learner(model, task=task, recipe=recipe, group=group, samples=self.train_data)
        self.position = Position()
        if state is not None:
            self.learner.load_state_dict(state.learner)
            self.position = state.position
            if state.world_size != group.world_size and group.is_main:
                warnings.warn(
                    f"the run was on {state.world_size} processes and goes on with {group.world_size}: the "
                    "batches stay the same, the bits do not",
                    UserWarning,
                    stacklevel=4,
                )
        if group.is_main:
            write_text(recipe.output / "recipe.json", json.dumps(recipe.to_dict(), indent=2) + "\n")
            (recipe.output / "metrics.json").unlink(missing_ok=True)
            if state is not None:
                # The process may have died between the state and the files that follow from it.
                self._write_followers()

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        return self.position.steps

    @property
    def seconds(self) -> float:
        """Time that those steps took."""
        return sum(row["seconds"] for row in self.position.rows) + self.position.seconds

    @property
    def best(self) -> dict[str, Any] | None:
        """The log's row of the epoch to keep: the first of the best, where a NaN is worst; or the last."""
        if self.recipe.keep == "last":
            return self.position.rows[-1] if self.position.rows else None
        name = f"validation_{self.task.metric}"
        return max(
            self.position.rows,
            key=lambda row: -math.inf if math.isnan(row[name]) else row[name],
            default=None,
        )

    def finish(self, stop: StopRequest, progress: bool | None) -> TrainResult:
        """Train the epochs that are left and test, or stop at a signal."""
        shown = progress if self.group.is_main else False
        num_epochs = math.ceil(self.num_steps / self.steps_per_epoch)
        with progress_bar(total=self.num_steps, initial=self.steps, show=shown) as bar:
            for note in self.notes:
                bar.write(note)
            # Steps may be done and their epoch not yet closed: by a signal at its last step.
            while self.steps < self.num_steps or self.position.step:
                signal_number = self._train_epoch(stop, bar)
                if signal_number:
                    self._save()
                    best = self.best or {}
                    return TrainResult(
                        output=self.recipe.output,
                        metric=self.task.metric,
                        best_epoch=best.get("epoch"),
                        best_metric=best.get(f"validation_{self.task.metric}"),
                        test=None,
                        steps=self.steps,
                        seconds=self.seconds,
                        signal_number=signal_number,
                    )
                self._end_epoch()
                row = self.position.rows[-1]
                bar.write(
                    f"epoch {row['epoch']}/{num_epochs}  train loss {row['train_loss']:.4f}  "
                    f"validation {self.task.metric} {row[f'validation_{self.task.metric}']:.4f}  "
                    f"{row['samples_per_second']:.0f} samples/s"
                )
        return self._test()

    def _train_epoch(self, stop: StopRequest, bar: Bar) -> int:
        """Take the steps that are left of the epoch; return the signal that cut it short, or 0."""
        with closing(self._parts(epoch=self.position.epoch, start_step=self.position.step)) as parts:
            while self.position.step < self.steps_per_epoch and self.steps < self.num_steps:
                began = time.perf_counter()
                report = self.learner.step(
                    parts,
                    step=self.steps,
                    place=f"epoch {self.position.epoch + 1}, step {self.steps + 1}",
                    lr=learning_rate(self.recipe, self.steps, steps_per_epoch=self.steps_per_epoch),
                    stop=stop,
                )
                sums = self.position.sums
                self.position = replace(
                    self.position,
                    step=self.position.step + 1,
                    sums={name: sums.get(name, 0.0) + value for name, value in report.logs.items()},
                    seconds=self.position.seconds + time.perf_counter() - began,
                )
                bar.set_postfix_str(f"epoch {self.position.epoch + 1} loss {report.logs['loss']:.4f}")
                bar.update(1)
                if report.signal_number:
                    return report.signal_number
                every = self.recipe.checkpoint_every
                if every and self.steps % every == 0 and not self._is_epoch_done():
                    self._save()
        return 0

    def _is_epoch_done(self) -> bool:
        return self.position.step == self.steps_per_epoch or self.steps == self.num_steps

    def _parts(self, *, epoch: int, start_step: int) -> Generator[Part, None, None]:
        recipe = self.recipe
        loader = DataLoader(
            SeededSamples(self.train_data, seed=recipe.seed, epoch=epoch),
            batch_sampler=MicroBatches(
                epoch_order(len(self.train_data), seed=recipe.seed, epoch=epoch),
                batch_size=recipe.batch_size,
                accumulate=recipe.accumulate,
                rank=self.group.rank,
                world_size=self.group.world_size,
                start_step=start_step,
            ),
            num_workers=recipe.num_workers,
            pin_memory=self.group.device.type == "cuda",
            worker_init_fn=leave_signals_to_parent,
        )
        yield from loader

    def _end_epoch(self) -> None:
        """Validate, and close the epoch with a row of the log and a saved state."""
        position, done = self.position, self.position.step
        self._average_norms()
        found = self._evaluate(self.validation_data)
        row = {
            "epoch": position.epoch + 1,
            "step": self.steps,
            "lr": learning_rate(self.recipe, self.steps - 1, steps_per_epoch=self.steps_per_epoch),
            **{f"train_{name}": value / done for name, value in position.sums.items()},
            "validation_loss": found["loss"],
            f"validation_{self.task.metric}": found[self.task.metric],
            "seconds": position.seconds,
            "samples_per_second": done * self.recipe.batch_size / position.seconds,
        }
        self.position = Position(epoch=position.epoch + 1, rows=[*position.rows, row])
        self._save()

    def _average_norms(self) -> None:
        """Average the statistics of norms anew; validation and the saved weights have those."""
        number = self.recipe.norm_batches * self.recipe.accumulate
        if number:
            # The epoch that comes: its samples are drawn as those of the one before were, and are others.
            epoch = self.position.epoch + 1
            with closing(self._parts(epoch=epoch, start_step=0)) as parts:
                self.learner.average_norms(islice(parts, number), seed=mix(self.recipe.seed, "norms", epoch))

    def _evaluate(self, data: Any) -> dict[str, Any]:
        self.group.share_buffers(self.learner.model)
        return self.task.evaluate(
            self.learner.model, data, device=self.group.device, distributed=self.group.is_distributed
        )

    def _save(self) -> None:
        if self.group.is_main:
            state = TrainingState(
                recipe=self.recipe.to_dict(),
                num_samples=len(self.train_data),
                world_size=self.group.world_size,
                position=self.position,
                learner=self.learner.state_dict(),
            )
            write_state(self.recipe.output, state)
            self._write_followers()
        # torchrun ends the other processes once one has ended: none may leave while the main one writes.
        self.group.barrier()

    def _write_followers(self) -> None:
        folder, position, best = self.recipe.output, self.position, self.best
        write_log(folder, position.rows)
        metadata = {
            **self.task.metadata(self.train_data),
            "recipe": self.recipe.to_dict(),
            "epoch": position.epoch,
            "step": self.steps,
        }
        if position.step == 0 and best is not None:
            name = f"validation_{self.task.metric}"
            metadata[name] = position.rows[-1][name]
            if best["epoch"] == position.epoch:
                save_checkpoint(self.learner.model, folder / "best.safetensors", metadata=metadata)
        save_checkpoint(self.learner.model, folder / "last.safetensors", metadata=metadata)

    def _test(self) -> TrainResult:
        """Test the best weights and record the result."""
        best = self.best
        assert best is not None, "an epoch was trained"
        load_checkpoint(self.recipe.output / "best.safetensors", model=self.learner.model)
        with self.group.main_first():
            test_data = self.task.data("test")
        found = self._evaluate(test_data)
        device = self.group.device
        metric = f"validation_{self.task.metric}"
        metrics = {
            "best_epoch": best["epoch"],
            metric: best[metric],
            "test": found,
            "parameters": sum(each.numel() for each in self.learner.model.parameters()),
            "epochs": self.recipe.epochs,
            "steps": self.steps,
            "seconds": self.seconds,
            "seed": self.recipe.seed,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "processes": self.group.world_size,
            "torch": torch.__version__,
        }
        if self.group.is_main:
            write_text(self.recipe.output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        self.group.barrier()
        return TrainResult.from_metrics(self.recipe.output, metrics, metric=self.task.metric)
