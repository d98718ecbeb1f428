"""The settings of a training that are about its data: a part for all data, and one a kind that needs more."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nonlocalnn._errors import check_choice, check_intensity, check_spacing
from nonlocalnn._names import (
    BACKENDS,
    GENERATED_OBJECT_SETS,
    IMAGE_SETS,
    MASK_SETS,
    OBJECT_SETS,
    STEP_SETS,
    TASKS,
    VIDEO_SETS,
    VOLUME_MASK_SETS,
)
from nonlocalnn.tasks.settings import Settings

# Which data sets tasks other than classification learn from.
_SETS_OF = {"segmentation": (*MASK_SETS, *VOLUME_MASK_SETS, *STEP_SETS), "detection": OBJECT_SETS}


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
        bucket_by_length: Files of sequences only: whether a batch is of sequences of similar lengths, so that
            less of it is padding. Which go together is drawn anew each epoch.
    """

    task: Literal["classification", "segmentation", "detection"] | None = None
    data: str = "digits"
    data_dir: Path | None = None
    image_size: int | None = None
    channels: int | None = None
    augment: bool = True
    num_workers: int = 0
    max_broken: int = 0
    bucket_by_length: bool = False

    def __post_init__(self) -> None:
        self._as_path("data_dir")
        check_choice("task", self.task, (None, *TASKS))
        fitting = next((task for task, sets in _SETS_OF.items() if self.data in sets), "classification")
        if self.task not in (None, fitting):
            needed = {"segmentation": "masks or labels of steps", "detection": "images with objects"}
            hint = f"leave it out, or name data for {self.task}"
            if self.task in needed:
                sets = ", ".join(_SETS_OF[self.task])
                hint = f"{self.task} learns from {needed[self.task]}, data one of {sets}"
            raise ValueError(f"task must be {fitting!r} with data={self.data!r}; got {self.task!r}: {hint}")
        check_choice("channels", self.channels, (None, 1, 3))
        self._check_at_least(1, "image_size")
        self._check_at_least(0, "num_workers", "max_broken")
        objects = (name for name in OBJECT_SETS if name not in GENERATED_OBJECT_SETS)
        files = (*VIDEO_SETS, *IMAGE_SETS, *objects)
        if self.max_broken and self.data not in files:
            raise ValueError(
                f"max_broken has an effect only with files, data one of {', '.join(files)}; "
                f"got data={self.data!r}: leave it out"
            )
        sequences = ("sequences", *STEP_SETS)
        if self.bucket_by_length and self.data not in sequences:
            raise ValueError(
                f"bucket_by_length has an effect only with files of sequences, data one of "
                f"{', '.join(sequences)}; got data={self.data!r}: leave it out"
            )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class VideoSettings(Settings):
    """How clips are made of videos; with other data these stay as they are.

    Args:
        frames: Videos and "cue" only: frames of a clip; None is the network's own number, and 8 of "cue".
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
