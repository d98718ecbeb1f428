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

from nonlocalnn._files import remove_parts, write_text
from nonlocalnn._progress import Lines
from nonlocalnn._workers import Batches, leave_signals_to_parent
from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.data.class_names import first_difference
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.tasks.contract import Task
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.train.few_samples import fitted_recipe
from nonlocalnn.train.initial_weights import start_from_
from nonlocalnn.train.learner import Learner, Part
from nonlocalnn.train.log import check_tensorboard, progress_bar
from nonlocalnn.train.opening import opening_lines, warn_of_missing_classes
from nonlocalnn.train.optimizer import learning_rate
from nonlocalnn.train.order import (
    MicroBatches,
    SeededBatch,
    SeededSamples,
    by_length,
    epoch_order,
    grouped,
    mix,
    steps_per_epoch,
)
from nonlocalnn.train.parallel.distributed import Group, process_group
from nonlocalnn.train.result import TrainResult
from nonlocalnn.train.signals import StopRequest, stop_on_signal
from nonlocalnn.train.state.checkpoint import Position, TrainingState
from nonlocalnn.train.state.resuming import Resume, remove_newer, state_to_resume
from nonlocalnn.train.state.saving import RunSaver, best_row


def train(
    recipe: Recipe,
    *,
    task: Task[Any] | None = None,
    resume: Resume = False,
    progress: bool | None = None,
) -> TrainResult:
    """Train a network and test the best of its epochs once.

    The folder ``recipe.output`` receives ``recipe.json``; ``log.jsonl`` and ``log.csv``, a row an epoch;
    the folder ``last``, from which the run can be resumed, and ``last.previous``, the one before; the weights
    ``last.safetensors`` and ``best.safetensors``, the first of the epochs with the best validation score; and
    at the end ``metrics.json``. Each of these is replaced as a whole.

    SIGTERM or SIGINT ends the run after the step under way, with everything saved. On the CPU, a run that was
    stopped anywhere and resumed on as many processes and threads gives the weights of one that never stopped,
    bit for bit. Under torchrun each process calls this function.

    Args:
        recipe: What to do.
        task: What is learnt; None is what ``recipe`` names, or what its data is for.
        resume: Go on with the run in ``recipe.output``; one that is finished only returns its result. With
            "if any" a run begins where there is none, so that one command both begins and goes on.
        progress: True shows a bar on stderr and False nothing; None shows a bar on a terminal, and a line an
            epoch elsewhere.

    Raises:
        ValueError: The folder holds a run and ``resume`` is False; the recipe or the data is not that of the
            run to resume; the batch does not divide among the ranks, or is larger than the data; or
            ``sync_norms`` is asked of several processes on the CPU.
        FileNotFoundError: ``resume`` is True and there is no run.
        CheckpointError: The run's saved states are damaged.
        NonFiniteLossError: The loss or the gradient is no longer finite.
    """
    sharded = recipe.parallel == "fsdp"
    with process_group(recipe.device, sharded=sharded) as group, stop_on_signal() as stop:
        # In a function of its own, so that no network outlives the group of processes that it lies on.
        return _train(recipe, task, group, stop, resume, progress)


def _train(
    recipe: Recipe,
    task: Task[Any] | None,
    group: Group,
    stop: StopRequest,
    resume: Resume,
    progress: bool | None,
) -> TrainResult:
    _check_device(recipe, group)
    if recipe.tensorboard:
        check_tensorboard()
    asked = recipe
    state = state_to_resume(recipe.output, group, resume)
    if state is not None:
        recipe = recipe.completed(state.recipe)
    if task is None:
        task = named = task_of(recipe)
        recipe = named.recipe
    if state is not None:
        state.check(recipe)
        metrics = recipe.output / "metrics.json"
        if state.position.is_end_of(recipe) and metrics.exists():
            recorded = json.loads(metrics.read_text(encoding="utf-8"))
            return TrainResult.from_metrics(recipe.output, recorded, metric=task.metric)
    # Every rank has looked at the folder before the main one writes to it.
    group.barrier()
    # The caller's random numbers are not the run's business, nor the reverse.
    devices = [group.device] if group.device.type == "cuda" else []
    with torch.random.fork_rng(devices), closing(_Run(recipe, task, group, state)) as run:
        run.notes += run.opening(asked)
        return run.finish(stop, progress)


def _check_device(recipe: Recipe, group: Group) -> None:
    if recipe.sync_norms and group.is_distributed and group.device.type != "cuda":
        raise ValueError(
            "sync_norms needs a GPU for each process, since PyTorch exchanges the statistics of batch "
            "normalisation on GPUs only: leave it out, or train in one process"
        )


class _Run:
    """A run under way on one rank. Its saved state is the truth; every other file follows from it."""

    def __init__(self, recipe: Recipe, task: Task[Any], group: Group, state: TrainingState | None) -> None:
        self.task = task
        self.group = group
        with group.main_first():
            self.train_data = task.data("train")
            self.validation_data = task.data("validation")
            # Now, so that a test split that is missing is heard of before hours of training.
            self.test_data = task.data("test")
        if group.is_main:
            warn_of_missing_classes(
                {"training": self.train_data, "validation": self.validation_data, "test": self.test_data}
            )
        self.recipe = recipe = fitted_recipe(recipe, len(self.train_data), group.world_size)
        assert recipe.batch_size is not None
        assert recipe.norm_batches is not None
        self.batch_size, self.norm_batches = recipe.batch_size, recipe.norm_batches
        self._groups: list[int] | None = getattr(self.train_data, "groups", None)
        self.steps_per_epoch = steps_per_epoch(len(self.train_data), self.batch_size)
        self.num_steps = recipe.num_steps(self.steps_per_epoch)
        if state is not None and state.num_samples != len(self.train_data):
            raise ValueError(
                f"the run began with {state.num_samples} training samples and the data now has "
                f"{len(self.train_data)}: resume with the data it began with"
            )
        if state is not None and state.classes is not None:
            classes = task.metadata(self.train_data).get("classes") or ()
            difference = first_difference(state.classes, classes)
            if difference is not None:
                raise ValueError(
                    f"the run began with {len(state.classes)} classes, the data now has {len(classes)}, and "
                    f"they must be the same; {difference}: resume with the data it began with"
                )
        self.notes: list[str] = []
        torch.manual_seed(mix(recipe.seed, "weights"))
        model = task.model(self.train_data)
        if recipe.start_from is not None and state is None:
            kept = start_from_(model, recipe.start_from)
            self.notes.append(f"weights of {recipe.start_from}; new ones: {', '.join(kept) or 'none'}")
        self.learner = Learner(model, task=task, recipe=recipe, group=group, samples=self.train_data)
        self.position = Position()
        if state is not None:
            self.learner.load(state)
            self.position = state.position
            was = (state.world_size, state.recipe.get("parallel", "ddp"))
            now = (group.world_size, recipe.parallel)
            if was != now and group.is_main:
                warnings.warn(
                    "the run was on {} processes ({}) and goes on with {} ({}): the batches stay the same, "
                    "the bits do not".format(*was, *now),
                    UserWarning,
                    stacklevel=5,
                )
        if group.is_main:
            if state is not None:
                remove_newer(state)
            remove_parts(recipe.output)
            write_text(recipe.output / "recipe.json", json.dumps(recipe.to_dict(), indent=2) + "\n")
            (recipe.output / "metrics.json").unlink(missing_ok=True)
        self.saver = RunSaver(recipe, task=task, learner=self.learner, group=group, samples=self.train_data)
        if state is not None:
            self.saver.write_followers(self.position)

    def opening(self, asked: Recipe) -> list[str]:
        """Return what a person should hear of a run before it starts.

        Args:
            asked: The recipe as it was given.
        """
        return opening_lines(
            asked,
            self.recipe,
            sizes=[len(each) for each in (self.train_data, self.validation_data, self.test_data)],
            facts=self.task.metadata(self.train_data),
            model=self.learner.model,
            device=self.group.device,
        )

    def close(self) -> None:
        """Let what is being saved come to its end."""
        self.saver.writer.close()

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
        """The log's row of the epoch to keep."""
        return best_row(self.position.rows, metric=self.task.metric, keep=self.recipe.keep)

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
                    self.saver.save(self.position)
                    self.saver.writer.finish()
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

    def _train_epoch(self, stop: StopRequest, bar: Lines) -> int:
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
                sums, own = self.position.sums, self.position.own_seconds
                if len(own) != self.group.world_size:
                    own = [0.0] * self.group.world_size
                self.position = replace(
                    self.position,
                    step=self.position.step + 1,
                    sums={name: sums.get(name, 0.0) + value for name, value in report.logs.items()},
                    seconds=self.position.seconds + time.perf_counter() - began,
                    own_seconds=[sum(pair) for pair in zip(own, report.own_seconds, strict=True)],
                )
                bar.set_postfix_str(f"epoch {self.position.epoch + 1} loss {report.logs['loss']:.4f}")
                bar.update(1)
                if report.signal_number:
                    return report.signal_number
                every = self.recipe.checkpoint_every
                if every and self.steps % every == 0 and not self._is_epoch_done():
                    self.saver.save(self.position)
        return 0

    def _is_epoch_done(self) -> bool:
        # The paper's schedules count steps: a run may end in mid-epoch, and that epoch is then closed early.
        return self.position.step == self.steps_per_epoch or self.steps == self.num_steps

    def _parts(self, *, epoch: int, start_step: int) -> Generator[Part, None, None]:
        recipe = self.recipe
        order = epoch_order(len(self.train_data), seed=recipe.seed, epoch=epoch)
        if self._groups is not None:
            order = grouped(order, self._groups, self.batch_size)
        if recipe.bucket_by_length:
            seed = mix(recipe.seed, "batches", epoch)
            order = by_length(order, self.train_data.num_steps, self.batch_size, seed=seed)
        loader = DataLoader(
            SeededSamples(self.train_data, seed=recipe.seed, epoch=epoch),
            batch_sampler=MicroBatches(
                order,
                batch_size=self.batch_size,
                accumulate=recipe.accumulate,
                rank=self.group.rank,
                world_size=self.group.world_size,
                start_step=start_step,
            ),
            num_workers=recipe.num_workers,
            collate_fn=SeededBatch(self.train_data),
            pin_memory=self.group.device.type == "cuda",
            worker_init_fn=leave_signals_to_parent,
        )
        yield from Batches(loader)

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
            **({"validation_loss": found["loss"]} if "loss" in found else {}),
            f"validation_{self.task.metric}": found[self.task.metric],
            "seconds": position.seconds,
            "samples_per_second": done * self.batch_size / position.seconds,
            "slowest_rank": position.own_seconds.index(max(position.own_seconds)),
            "slowest_seconds": max(position.own_seconds),
            "fastest_seconds": min(position.own_seconds),
        }
        self.position = Position(epoch=position.epoch + 1, rows=[*position.rows, row])
        self.saver.save(self.position)

    def _average_norms(self) -> None:
        """Average the statistics of norms anew; validation and the saved weights have those."""
        number = self.norm_batches * self.recipe.accumulate
        if number:
            # Samples of the coming epoch: those that were just trained on would flatter the network.
            epoch = self.position.epoch + 1
            with closing(self._parts(epoch=epoch, start_step=0)) as parts:
                self.learner.average_norms(islice(parts, number), seed=mix(self.recipe.seed, "norms", epoch))

    def _evaluate(self, data: Any, *, saved: Path | None = None) -> dict[str, Any]:
        """Evaluate the network, with its own weights or those of a file."""
        # The copy of a sharded network, of which this makes use, may still be on its way to a file.
        self.saver.writer.finish()
        self.group.share_buffers(self.learner.model)
        with self.learner.network.whole() as model:
            if saved is not None:
                load_checkpoint(saved, model=model)
            return self.task.evaluate(
                model, data, device=self.group.device, distributed=self.group.is_distributed
            )

    def _test(self) -> TrainResult:
        """Test the best weights and record the result."""
        best = self.best
        assert best is not None, "an epoch was trained"
        found = self._evaluate(self.test_data, saved=self.recipe.output / "best.safetensors")
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
