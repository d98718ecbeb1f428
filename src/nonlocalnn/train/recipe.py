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

# Fields that say where and how often, not what is computed: a resumed run may change them.
_FREE_FIELDS = frozenset({"data_dir", "num_workers", "epochs", "device", "checkpoint_every", "output"})


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    A setting that would have no effect under the others is refused, so a recipe holds no dead words.

    Args:
        data: Name of the data set.
        data_dir: Folder that holds the data set's files; None for one that needs no folder.
        image_size: Height and width of the images in pixels; None keeps the data set's own.
        channels: Channels of the images, 1 or 3; None keeps the data set's own.
        augment: Whether training images are varied at random.
        num_workers: Processes that read the data on each rank; 0 reads in the training process.
        model: Name of the network.
        model_overrides: Arguments of the network that differ from its defaults.
        optimizer: "adam", "adamw" or "sgd".
        lr: Highest learning rate.
        momentum: Momentum, SGD only; None is 0.9.
        nesterov: Nesterov's form of momentum, SGD only.
        weight_decay: L2 penalty ("adam", "sgd") or decoupled decay ("adamw"), on every parameter.
        schedule: What the learning rate does after the warm-up: stays ("constant"), falls along half a cosine
            to zero at the last epoch ("cosine"), or is multiplied by ``gamma`` at each milestone ("step").
        milestones: Epochs after which the rate drops, ascending; "step" only.
        gamma: Factor of each drop; "step" only; None is 0.1.
        warmup_epochs: Length of the linear rise from zero, in epochs; fractions are allowed.
        epochs: Passes over the training data.
        batch_size: Samples in one optimiser step, over all ranks and all accumulated parts, so that a recipe
            means the same on any number of devices.
        accumulate: Parts into which each rank cuts its share of a batch, to fit in memory.
        clip_norm: Highest L2 norm of the whole gradient; None never clips.
        precision: "fp32", or "bf16" or "fp16" for automatic mixed precision.
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
    model: str = "nl_digits"
    model_overrides: dict[str, Any] = field(default_factory=dict)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float | None = None
    warmup_epochs: float = 0.0
    epochs: int = 10
    batch_size: int = 64
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    seed: int = 0
    checkpoint_every: int | None = None
    output: Path = Path("runs/train")

    def __post_init__(self) -> None:
        for name in ("data_dir", "output"):
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
        for name in ("image_size", "epochs", "batch_size", "accumulate", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        for name in ("num_workers", "seed", "weight_decay", "warmup_epochs"):
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
        bounds = (0, *self.milestones, self.epochs)
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(
                f"milestones must ascend between 0 and epochs={self.epochs}, both left out; "
                f"got {list(self.milestones)}"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule='step' needs milestones, the epochs after which the rate drops")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs={self.epochs}; got {self.warmup_epochs}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        values = dataclasses.asdict(self)
        values["milestones"] = list(self.milestones)
        values["data_dir"] = None if self.data_dir is None else str(self.data_dir)
        values["output"] = str(self.output)
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
        if "milestones" in given:
            given["milestones"] = tuple(given["milestones"])
        return cls(**given)

    def changed_fields(self, saved: Mapping[str, Any]) -> list[str]:
        """Return the fields that change the mathematics and differ from those of ``saved``.

        Args:
            saved: What :meth:`to_dict` gave for the recipe to compare with.

        Example:
            >>> Recipe(epochs=9, lr=0.1).changed_fields(Recipe().to_dict())
            ['lr']
        """
        # The cosine ends at the last epoch, so there the number of epochs shapes every step before it.
        free = _FREE_FIELDS - {"epochs"} if self.schedule == "cosine" else _FREE_FIELDS
        return [
            name for name, value in self.to_dict().items() if name not in free and saved.get(name) != value
        ]


def _no_effect(name: str, switch: str, needed: str, actual: str) -> ValueError:
    return ValueError(
        f"{name} has an effect only with {switch}={needed!r}; got {switch}={actual!r}: leave it out"
    )
