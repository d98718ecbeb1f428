"""Everything that decides a training run, in one flat record."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from nonlocalnn._errors import check_choice, near_miss
from nonlocalnn.data import IMAGE_SETS, current_name
from nonlocalnn.data.video import BACKENDS
from nonlocalnn.data.video.named import VIDEO_SETS

# Fields that say where and how often, not what is computed: a resumed run may change them.
_FREE_FIELDS = frozenset(
    {
        *(
            "data_dir",
            "num_workers",
            "decoder",
            "epochs",
            "iterations",
            "device",
            "checkpoint_every",
            "output",
        ),
        *("activation_checkpointing", "parallel"),
    }
)
_PATHS = ("data_dir", "start_from", "output")
_TUPLES = ("milestones", "short_sides")
# What only clips of videos have, with the value that says nothing.
_VIDEO_FIELDS = {
    "frames": None,
    "stride": None,
    "short_sides": None,
    "test_size": None,
    "test_views": 30,
    "decoder": "pyav",
}


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    A setting that would have no effect under the others is refused, so a recipe holds no dead words.

    Args:
        data: Name of the data set.
        data_dir: Folder that holds the data set's files; None for one that needs no folder.
        image_size: Height and width of the images, or of the clips in training, in pixels; None keeps the
            data set's own, and of videos the network's.
        channels: Channels of the images, 1 or 3; None keeps the data set's own.
        augment: Whether training images are varied at random; of videos, whether clips are mirrored.
        num_workers: Processes that read the data on each rank; 0 reads in the training process.
        frames: Videos only: frames of a clip; None is the network's own number.
        stride: Videos only: frames from one of a clip to the next; None is the network's own.
        short_sides: Videos only: the short side of a training clip is scaled to a length between these two,
            in pixels; None is 256 to 320 for clips of 224 pixels, and in proportion for others.
        test_size: Videos only: short side, and side of the squares, in validation and test, in pixels; None
            is 256 for clips of 224 pixels, and in proportion for others.
        test_views: Videos only: 30 (10 clips x 3 squares, averaged) or 1 (the middle) in the test.
        max_broken: Files only, videos and images: how many that cannot be read are left out; one more is an
            error.
        decoder: Videos only: "pyav" or "torchcodec".
        model: Name of the network.
        model_overrides: Arguments of the network that differ from its defaults.
        start_from: A checkpoint whose weights the network begins with: an earlier run's, or for a video
            network the state dict of an image ResNet. The last layer begins anew where classes differ, and
            so do non-local blocks that the checkpoint lacks.
        optimizer: "adam", "adamw" or "sgd".
        lr: Highest learning rate.
        lr_batch_size: The batch size that ``lr`` is meant for; with another ``batch_size`` the rate is scaled
            in proportion. None never scales.
        momentum: Momentum, SGD only; None is 0.9.
        nesterov: Nesterov's form of momentum, SGD only.
        weight_decay: L2 penalty ("adam", "sgd") or decoupled decay ("adamw"), on every parameter.
        decay_norms: Whether the decay includes the weights and biases of norms.
        schedule: What the learning rate does after the warm-up: stays ("constant"), falls along half a cosine
            to zero at the last epoch ("cosine"), or is multiplied by ``gamma`` at each milestone ("step").
        milestones: Epochs, or with ``iterations`` steps, after which the rate drops, ascending; "step" only.
        gamma: Factor of each drop; "step" only; None is 0.1.
        warmup_epochs: Length of the linear rise from zero, in epochs; fractions are allowed.
        epochs: Passes over the training data.
        iterations: Optimiser steps of the whole run, in place of ``epochs``; None goes by these.
        batch_size: Samples in one optimiser step, over all ranks and all accumulated parts, so that a recipe
            means the same on any number of devices.
        accumulate: Parts into which each rank cuts its share of a batch, to fit in memory.
        clip_norm: Highest L2 norm of the whole gradient; None never clips.
        norm_batches: Batches of training data over which the statistics of batch normalisation are averaged
            anew before each validation; 0 keeps the running ones.
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
        output: Folder of the run.

    Raises:
        ValueError: A value is out of its range, or would have no effect.

    Example:
        >>> recipe = Recipe(epochs=3, optimizer="sgd", lr=0.1)
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
        >>> Recipe(gamma=0.5)
        Traceback (most recent call last):
            ...
        ValueError: gamma has an effect only with schedule='step'; got schedule='constant': leave it out
    """

    data: str = "digits"
    data_dir: Path | None = None
    image_size: int | None = None
    channels: int | None = None
    augment: bool = True
    num_workers: int = 0
    frames: int | None = None
    stride: int | None = None
    short_sides: tuple[int, int] | None = None
    test_size: int | None = None
    test_views: int = 30
    max_broken: int = 0
    decoder: str = "pyav"
    model: str = "nl_digits"
    model_overrides: dict[str, Any] = field(default_factory=dict)
    start_from: Path | None = None
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    lr_batch_size: int | None = None
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_norms: bool = True
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float | None = None
    warmup_epochs: float = 0.0
    epochs: int = 10
    iterations: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    clip_norm: float | None = None
    norm_batches: int = 0
    keep: Literal["best", "last"] = "best"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    sync_norms: bool = False
    activation_checkpointing: bool = False
    device: str = "auto"
    seed: int = 0
    checkpoint_every: int | None = None
    output: Path = Path("runs/train")

    def __post_init__(self) -> None:
        for name in _PATHS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        self._check_choices()
        self._check_ranges()
        self._check_effects()

    def _check_choices(self) -> None:
        check_choice("optimizer", self.optimizer, ("adam", "adamw", "sgd"))
        check_choice("schedule", self.schedule, ("constant", "cosine", "step"))
        check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        check_choice("channels", self.channels, (None, 1, 3))
        check_choice("test_views", self.test_views, (1, 30))
        check_choice("decoder", self.decoder, BACKENDS)
        check_choice("keep", self.keep, ("best", "last"))
        check_choice("parallel", self.parallel, ("ddp", "fsdp"))
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is None:
            raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {self.device!r}")
        try:
            unchanged = json.loads(json.dumps(self.model_overrides)) == self.model_overrides
        except TypeError:
            unchanged = False
        if not unchanged:
            # The recipe is written beside the weights and compared on resume.
            raise ValueError(f"model_overrides must hold only JSON values; got {self.model_overrides!r}")

    def _check_ranges(self) -> None:
        sizes = ("image_size", "test_size", "frames", "stride", "batch_size", "lr_batch_size", "accumulate")
        for name in (*sizes, "epochs", "iterations", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        for name in ("num_workers", "max_broken", "norm_batches", "seed", "weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be zero or more, and finite; got {value}")
        for name in ("lr", "gamma", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be greater than zero, and finite; got {value}")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1; got {self.momentum}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be divisible by accumulate; got {self.batch_size} and {self.accumulate}"
            )

    def _check_effects(self) -> None:
        if "num_classes" in self.model_overrides:
            raise ValueError("model_overrides must not set num_classes: the data set decides it")
        if self.optimizer != "sgd" and (self.momentum is not None or self.nesterov):
            name = "nesterov" if self.nesterov else "momentum"
            raise _no_effect(name, "optimizer", "sgd", self.optimizer)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum greater than 0; got momentum=0")
        if self.schedule != "step" and (self.milestones or self.gamma is not None):
            name = "milestones" if self.milestones else "gamma"
            raise _no_effect(name, "schedule", "step", self.schedule)
        unit, end = ("epochs", self.epochs) if self.iterations is None else ("iterations", self.iterations)
        if any(low >= high for low, high in pairwise((0, *self.milestones, end))):
            raise ValueError(
                f"milestones must ascend between 0 and {unit}={end}, both left out; "
                f"got {list(self.milestones)}"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError(f"schedule='step' needs milestones, the {unit} after which the rate drops")
        if not self.decay_norms and self.weight_decay == 0:
            raise ValueError("decay_norms=False has an effect only with a weight_decay: leave it out")
        if self.data not in VIDEO_SETS:
            for name, nothing in _VIDEO_FIELDS.items():
                if getattr(self, name) != nothing:
                    raise ValueError(
                        f"{name} has an effect only with videos, data one of {', '.join(VIDEO_SETS)}; "
                        f"got data={self.data!r}: leave it out"
                    )
        files = (*VIDEO_SETS, *IMAGE_SETS)
        if self.max_broken and self.data not in files:
            raise ValueError(
                f"max_broken has an effect only with files, data one of {', '.join(files)}; "
                f"got data={self.data!r}: leave it out"
            )
        if self.iterations is None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs={self.epochs}; got {self.warmup_epochs}"
            )

    @property
    def scaled_lr(self) -> float:
        """``lr`` in proportion to the batch size."""
        return self.lr if self.lr_batch_size is None else self.lr * self.batch_size / self.lr_batch_size

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the optimiser steps of the whole run."""
        return self.epochs * steps_per_epoch if self.iterations is None else self.iterations

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        values = dataclasses.asdict(self)
        for name in _TUPLES:
            values[name] = None if values[name] is None else list(values[name])
        for name in _PATHS:
            values[name] = None if values[name] is None else str(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that :meth:`to_dict` wrote; fields left out take their defaults.

        Raises:
            ValueError: A key is no field of a recipe, or a value is refused.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(f"a recipe has no field {key!r}{near_miss(key, names)}")
        given = dict(values)
        if "data" in given:
            given["data"] = current_name(given["data"])
        for name in _TUPLES:
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        return cls(**given)

    def changed_fields(self, saved: Mapping[str, Any]) -> list[str]:
        """Return the fields that change the mathematics and differ from those of ``saved``.

        Args:
            saved: What :meth:`to_dict` gave for the recipe to compare with. A field that it lacks, being of
                an older version, had its default.

        Example:
            >>> Recipe(epochs=9, lr=0.1).changed_fields(Recipe().to_dict())
            ['lr']
        """
        # The cosine ends with the run, so there the length of the run shapes every step before.
        free = _FREE_FIELDS - {"epochs", "iterations"} if self.schedule == "cosine" else _FREE_FIELDS
        before = {**Recipe().to_dict(), **saved}
        return [name for name, value in self.to_dict().items() if name not in free and before[name] != value]


def _no_effect(name: str, switch: str, needed: str, actual: str) -> ValueError:
    return ValueError(
        f"{name} has an effect only with {switch}={needed!r}; got {switch}={actual!r}: leave it out"
    )
