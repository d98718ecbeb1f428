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

from nonlocalnn._errors import check_choice, check_intensity, check_spacing
from nonlocalnn._names import (
    BACKENDS,
    IMAGE_SETS,
    MASK_SETS,
    OBJECT_SETS,
    TASKS,
    VIDEO_SETS,
    VOLUME_MASK_SETS,
)

# Which data sets tasks other than classification learn from.
_SETS_OF = {"segmentation": (*MASK_SETS, *VOLUME_MASK_SETS), "detection": OBJECT_SETS}


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
class DataSettings(Settings):
    """Which data set, and how its samples are read.

    Args:
        task: What is learnt: "classification", "segmentation", a class for each pixel, or "detection", boxes
            and masks of objects; None is what the data set is for.
        data: Name of the data set.
        data_dir: Folder that holds the data set's files; None for one that needs no folder.
        image_size: Height and width of the images, or of the clips in training, in pixels; None keeps the
            data set's own, of videos and with another library's network the network's, and is 64 for files
            where the network is chosen too. Of volumes it is voxels along each axis, of a sample or, where
            they have masks, of the patches of training.
        channels: Channels of the images, 1 or 3; None keeps the data set's own.
        augment: Whether training images are varied at random; of videos, whether clips are mirrored.
        num_workers: Processes that read the data on each rank; 0 reads in the training process.
        max_broken: Files only, videos and images: how many that cannot be read are left out; one more is an
            error. Of detection how many objects, such as one whose box has no area.
    """

    task: Literal["classification", "segmentation"] | None = None
    data: str = "digits"
    data_dir: Path | None = None
    image_size: int | None = None
    channels: int | None = None
    augment: bool = True
    num_workers: int = 0
    max_broken: int = 0

    def __post_init__(self) -> None:
        self._as_path("data_dir")
        check_choice("task", self.task, (None, *TASKS))
        fitting = next((task for task, sets in _SETS_OF.items() if self.data in sets), "classification")
        if self.task not in (None, fitting):
            needed = {"segmentation": "images or volumes with masks", "detection": "images with objects"}
            hint = f"leave it out, or name data for {self.task}"
            if self.task in needed:
                sets = ", ".join(_SETS_OF[self.task])
                hint = f"{self.task} learns from {needed[self.task]}, data one of {sets}"
            raise ValueError(f"task must be {fitting!r} with data={self.data!r}; got {self.task!r}: {hint}")
        check_choice("channels", self.channels, (None, 1, 3))
        self._check_at_least(1, "image_size")
        self._check_at_least(0, "num_workers", "max_broken")
        files = (*VIDEO_SETS, *IMAGE_SETS, *(name for name in OBJECT_SETS if name != "detect-cue"))
        if self.max_broken and self.data not in files:
            raise ValueError(
                f"max_broken has an effect only with files, data one of {', '.join(files)}; "
                f"got data={self.data!r}: leave it out"
            )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class VideoSettings(Settings):
    """How clips are made of videos; with other data these stay as they are.

    Args:
        frames: Videos only: frames of a clip; None is the network's own number.
        stride: Videos only: frames from one of a clip to the next; None is the network's own.
        short_sides: Videos only: the short side of a training clip is scaled to a length between these two,
            in pixels; None is 256 to 320 for clips of 224 pixels, and in proportion for others.
        test_size: Videos only: short side, and side of the squares, in validation and test, in pixels; None
            is 256 for clips of 224 pixels, and in proportion for others.
        test_views: Videos only: 30 (10 clips x 3 squares, averaged) or 1 (the middle) in the test.
        decoder: Videos only: "pyav" or "torchcodec".
    """

    frames: int | None = None
    stride: int | None = None
    short_sides: tuple[int, int] | None = None
    test_size: int | None = None
    test_views: int = 30
    decoder: str = "pyav"

    def __post_init__(self) -> None:
        check_choice("test_views", self.test_views, (1, 30))
        check_choice("decoder", self.decoder, BACKENDS)
        self._check_at_least(1, "test_size", "frames", "stride")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class MaskSettings(Settings):
    """How images with masks are read and looked at; with other data these stay as they are.

    Args:
        scales: Segmentation only: training scales an image by a factor between these two, at random; None is
            0.5 to 2.
        resize: Segmentation and detection only: short side to which images are brought first, in training,
            test and prediction, in pixels; None keeps their own, of detection the network's, and is 160, of
            detection 256, for files where the network is chosen too.
        window: Segmentation only: validation and test look at an image by windows of this side, in pixels,
            a third of which overlap; None looks at whole images. Of volumes, whose windows overlap by half,
            it is in voxels, and None is the side of the patches of training.
        class_weights: Segmentation only: how much a pixel of each class counts in the training loss, in the
            order of the classes, such as less for a background that is nearly everywhere; None is 1 each.
    """

    scales: tuple[float, float] | None = None
    resize: int | None = None
    window: int | None = None
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        self._check_at_least(1, "resize", "window")
        weights = () if self.class_weights is None else self.class_weights
        if not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"class_weights must be greater than zero, and finite; got {list(weights)}")
        if self.scales is not None:
            low, high = self.scales
            if not 0 < low <= high < math.inf:
                raise ValueError(f"scales must ascend, be finite and above zero; got {list(self.scales)}")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class VolumeSettings(Settings):
    """How volumes are read; with other data these stay as they are.

    Args:
        spacing: Volumes only: millimetres between slices, rows and columns to which volumes are resampled, in
            training, test and prediction; None keeps their own, and stretches those without masks to the
            size.
        intensity: Volumes only: lowest and highest value that is told apart, such as -160 and 240 of CT; None
            normalises each volume by itself: by the mean and deviation of its voxels above its mean.
        patches: Volumes with masks only: patches that training cuts out of each volume in an epoch; None is
            8.
    """

    spacing: tuple[float, float, float] | None = None
    intensity: tuple[float, float] | None = None
    patches: int | None = None

    def __post_init__(self) -> None:
        check_spacing(self.spacing)
        check_intensity(self.intensity)
        self._check_at_least(1, "patches")
        super().__post_init__()


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
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    lr_batch_size: int | None = None
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_norms: bool = True
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("adam", "adamw", "sgd"))
        self._check_positive("lr", "clip_norm")
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
            to zero at the last epoch ("cosine"), or is multiplied by ``gamma`` at each milestone ("step").
        milestones: Epochs, or with ``iterations`` steps, after which the rate drops, ascending; "step" only.
        gamma: Factor of each drop; "step" only; None is 0.1.
        warmup_epochs: Length of the linear rise from zero, in epochs; fractions are allowed.
        epochs: Passes over the training data.
        iterations: Optimiser steps of the whole run, in place of ``epochs``; None goes by these.
    """

    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float | None = None
    warmup_epochs: float = 0.0
    epochs: int = 10
    iterations: int | None = None

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, ("constant", "cosine", "step"))
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
