"""The parts of a training recipe: what each part of a training reads, and which values it allows.

Each part checks itself. A setting that would have no effect under the others is refused, so that a recipe
holds no words that do nothing.
"""

import json
import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from nonlocalnn._errors import check_choice


class Settings:
    """What all parts share: a part checks its own fields, then lets the next one check."""

    def __post_init__(self) -> None:
        """Check the fields; parts call this at the end of their own checks."""

    def _check_at_least(self, lowest: int, *names: str) -> None:
        """Check counts: None, or finite and no less than ``lowest``."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                bound = "zero or more, and finite" if lowest == 0 else f"at least {lowest}"
                raise ValueError(f"{name} must be {bound}; got {value}")

    def _check_positive(self, *names: str) -> None:
        """Check numbers: None, or finite and greater than zero."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be greater than zero, and finite; got {value}")

    def _check_needs(self, name: str, switch: str, needed: str) -> None:
        """Refuse a setting that was given unless ``switch`` has the value with which it has an effect."""
        actual = getattr(self, switch)
        if actual != needed:
            raise ValueError(
                f"{name} has an effect only with {switch}={needed!r}; got {switch}={actual!r}: leave it out"
            )

    def _check_json(self, *names: str) -> None:
        """Check that dictionaries stay what they are in JSON."""
        for name in names:
            value = getattr(self, name)
            try:
                unchanged = json.loads(json.dumps(value)) == value
            except TypeError:
                unchanged = False
            if not unchanged:
                # The recipe is written beside the weights and compared on resume.
                raise ValueError(f"{name} must hold only JSON values; got {value!r}")

    def _as_path(self, name: str) -> None:
        """Make a path of what may have been given as text."""
        if getattr(self, name) is not None:
            object.__setattr__(self, name, Path(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """Which network, and what its weights are at the start.

    Args:
        model: Name of the network, see ``nonlocalnn models``, or one of another library as
            "torchvision/resnet18" or "timm/resnet50"; None is one that fits the data.
        insert: Modules of the network after each of which a non-local block is inserted, separated by commas:
            "layer3.0,layer3.1"; see :func:`nonlocalnn.insert_nonlocal_`.
        insert_settings: Settings of the inserted blocks that differ from the defaults of
            :func:`nonlocalnn.insert_nonlocal_`, such as ``norm`` or ``num_heads``.
        model_overrides: Arguments of the network that differ from its defaults.
        start_from: A checkpoint whose weights the network begins with: an earlier run's folder or file, the
            published weights of another library's network, or for a video network the state dict of an image
            ResNet.
            The last layer begins anew where classes differ, and so do non-local blocks that the checkpoint
            lacks.
    """

    model: str | None = None
    insert: str | None = None
    insert_settings: dict[str, Any] = field(default_factory=dict)
    model_overrides: dict[str, Any] = field(default_factory=dict)
    start_from: Path | None = None

    def __post_init__(self) -> None:
        self._as_path("start_from")
        self._check_json("model_overrides", "insert_settings")
        if self.insert_settings and self.insert is None:
            raise ValueError("insert_settings has an effect only with insert: name a module, or leave it out")
        if "num_classes" in self.model_overrides:
            raise ValueError("model_overrides must not set num_classes: the data set decides it")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """How a gradient changes the weights.

    Args:
        optimizer: "adam", "adamw" or "sgd".
        lr: Highest learning rate.
        lr_batch_size: The batch size that ``lr`` is meant for; with another ``batch_size`` the rate is scaled
            in proportion. None never scales.
        momentum: Momentum, SGD only; None is 0.9.
        nesterov: Nesterov's form of momentum, SGD only.
        weight_decay: L2 penalty ("adam", "sgd") or decoupled decay ("adamw"), on every parameter.
        decay_norms: Whether the decay includes the weights and biases of norms.
        clip_norm: Highest L2 norm of the whole gradient; None never clips.
        embeddings_lr: Learning rate of theta and phi of the non-local blocks, in times ``lr``; it changes
            nothing in a network without them. At Adam's full rate logits may grow until each position attends
            to one key before the network knows to which, and nothing more is learnt of them.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    lr_batch_size: int | None = None
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_norms: bool = True
    clip_norm: float | None = None
    embeddings_lr: float = 1.0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("adam", "adamw", "sgd"))
        self._check_positive("lr", "clip_norm", "embeddings_lr")
        self._check_at_least(1, "lr_batch_size")
        self._check_at_least(0, "weight_decay")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1; got {self.momentum}")
        if self.nesterov:
            self._check_needs("nesterov", "optimizer", "sgd")
            if self.momentum == 0:
                raise ValueError("nesterov needs a momentum greater than 0; got momentum=0")
        if self.momentum is not None:
            self._check_needs("momentum", "optimizer", "sgd")
        if not self.decay_norms and self.weight_decay == 0:
            raise ValueError("decay_norms=False has an effect only with a weight_decay: leave it out")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Settings):
    """How long the training is, and the learning rate on the way.

    Args:
        schedule: What the learning rate does after the warm-up: stays ("constant"), falls along half a cosine
            to zero at the last epoch ("cosine"), falls to zero as the power 0.9 of what is left ("poly"), or
            is multiplied by ``gamma`` at each milestone ("step").
        milestones: Epochs, or with ``iterations`` steps, after which the rate drops, ascending; "step" only.
        gamma: Factor of each drop; "step" only; None is 0.1.
        warmup_epochs: Length of the linear rise from zero, in epochs; fractions are allowed.
        epochs: Passes over the training data.
        iterations: Optimiser steps of the whole run, in place of ``epochs``; None goes by these.
    """

    schedule: Literal["constant", "cosine", "poly", "step"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float | None = None
    warmup_epochs: float = 0.0
    epochs: int = 10
    iterations: int | None = None

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, ("constant", "cosine", "poly", "step"))
        self._check_at_least(1, "epochs", "iterations")
        self._check_at_least(0, "warmup_epochs")
        self._check_positive("gamma")
        if self.milestones:
            self._check_needs("milestones", "schedule", "step")
        if self.gamma is not None:
            self._check_needs("gamma", "schedule", "step")
        unit, end = ("epochs", self.epochs) if self.iterations is None else ("iterations", self.iterations)
        if any(low >= high for low, high in pairwise((0, *self.milestones, end))):
            raise ValueError(
                f"milestones must ascend between 0 and {unit}={end}, both left out; "
                f"got {list(self.milestones)}"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError(f"schedule='step' needs milestones, the {unit} after which the rate drops")
        if self.iterations is None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs={self.epochs}; got {self.warmup_epochs}"
            )
        super().__post_init__()

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the optimiser steps of the whole run."""
        return self.epochs * steps_per_epoch if self.iterations is None else self.iterations


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """How a training is carried out: batches, machines, what is kept, and where.

    Args:
        batch_size: Samples in one optimiser step, over all ranks and all accumulated parts, so that a recipe
            means the same on any number of devices. None is 64, and less where there are few samples.
        accumulate: Parts into which each rank cuts its share of a batch, to fit in memory.
        norm_batches: Batches of training data over which the statistics of batch normalisation are averaged
            anew before each validation; 0 keeps the running ones. None is 0, and more where an epoch has few
            steps: running statistics lag behind the weights there.
        keep: Which weights are kept as ``best.safetensors`` and tested: "best", of the epoch with the best
            validation score, or "last".
        precision: "fp32", or "bf16" or "fp16" for automatic mixed precision.
        parallel: How several processes share a network: "ddp", it is whole on each, or "fsdp", each holds a
            shard of its parameters, gradients and optimiser state.
        sync_norms: Whether batch normalisation takes its statistics over all processes; on GPUs only.
        activation_checkpointing: Whether the backward pass computes the insides of bottlenecks again, so that
            they need no memory; of a network without any, the insides of its children.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: Seed of the weights, the order of the data, augmentation and dropout.
        checkpoint_every: Optimiser steps between saves inside an epoch; None saves at each epoch's end only.
        tensorboard: Whether the folder of the run also has the log for TensorBoard.
        output: Folder of the run.
    """

    batch_size: int | None = None
    accumulate: int = 1
    norm_batches: int | None = None
    keep: Literal["best", "last"] = "best"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    sync_norms: bool = False
    activation_checkpointing: bool = False
    device: str = "auto"
    seed: int = 0
    checkpoint_every: int | None = None
    tensorboard: bool = False
    output: Path = Path("runs/train")

    def __post_init__(self) -> None:
        self._as_path("output")
        check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        check_choice("keep", self.keep, ("best", "last"))
        check_choice("parallel", self.parallel, ("ddp", "fsdp"))
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is None:
            raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {self.device!r}")
        self._check_at_least(1, "batch_size", "accumulate", "checkpoint_every")
        self._check_at_least(0, "norm_batches", "seed")
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be divisible by accumulate; got {self.batch_size} and {self.accumulate}"
            )
        super().__post_init__()
