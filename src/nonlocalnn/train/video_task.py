"""What is learnt from videos, and which task a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn.data.clips import MEAN, STANDARD_DEVIATION
from nonlocalnn.data.video_named import VIDEO_SETS, load_video_set
from nonlocalnn.data.video_sampling import CentreClip, RandomClip, Views, choose_sampling
from nonlocalnn.data.video_sets import VideoClips
from nonlocalnn.models import clip_stride, create_model, sample_shape
from nonlocalnn.train.recipe import Recipe
from nonlocalnn.train.task import ClassificationTask, Task
from nonlocalnn.video_evaluation import evaluate_videos

# The paper trains on squares of 224 pixels, out of short sides of 256 to 320, and tests on squares of 256.
_TRAINED, _SHORTEST, _LONGEST, _TESTED = 224, 256, 320, 256


def task_for(recipe: Recipe) -> Task[Any]:
    """Return the task that a recipe's data set calls for."""
    return VideoTask(recipe) if recipe.data in VIDEO_SETS else ClassificationTask(recipe)


@dataclass(frozen=True)
class VideoTask:
    """Classes of videos: cross-entropy and accuracy; where a video may show several, each by itself.

    Training sees random clips, validation the clip in the middle, the test the recipe's ``test_views``. With
    several classes a video the loss is the mean binary cross-entropy and the score mean average precision.

    Args:
        recipe: Names the videos and the network.

    Raises:
        ValueError: The network takes something else than clips, or the recipe asks for a number of channels.
    """

    recipe: Recipe

    def __post_init__(self) -> None:
        shape = sample_shape(self.recipe.model)
        if len(shape) != 4:
            raise ValueError(
                f"model {self.recipe.model!r} takes samples of shape {shape}, and {self.recipe.data!r} are "
                "videos: choose a network for clips, see nonlocalnn models"
            )
        if self.recipe.channels is not None:
            raise ValueError("channels applies to 'images' only; videos always have 3: leave it out")

    @property
    def metric(self) -> str:
        """The score: mean average precision where a video may show several classes."""
        return "mean_average_precision" if self.recipe.data == "charades" else "accuracy"

    @property
    def size(self) -> int:
        """Side of the squares in training, in pixels."""
        given = self.recipe.image_size
        return sample_shape(self.recipe.model)[-1] if given is None else given

    @property
    def test_size(self) -> int:
        """Short side, and side of the squares, in validation and test, in pixels."""
        given = self.recipe.test_size
        return round(self.size * _TESTED / _TRAINED) if given is None else given

    @property
    def stride(self) -> int:
        """Frames from one of a clip to the next."""
        return clip_stride(self.recipe.model) if self.recipe.stride is None else self.recipe.stride

    def data(self, split: str) -> VideoClips:
        """Return a split of the recipe's videos."""
        recipe = self.recipe
        sampling: RandomClip | CentreClip | Views
        if split == "train":
            sides = recipe.short_sides
            if sides is None:
                sides = (round(self.size * _SHORTEST / _TRAINED), round(self.size * _LONGEST / _TRAINED))
            sampling = RandomClip(sides, crop_size=self.size, flip=recipe.augment)
        else:
            sampling = choose_sampling(recipe.test_views if split == "test" else 1, size=self.test_size)
        return VideoClips(
            load_video_set(recipe.data, split, data_dir=recipe.data_dir),
            frames=sample_shape(recipe.model)[1] if recipe.frames is None else recipe.frames,
            stride=self.stride,
            sampling=sampling,
            backend=recipe.decoder,
            max_broken=recipe.max_broken,
        )

    def model(self, data: VideoClips) -> nn.Module:
        """Return the recipe's network with one output a class."""
        return create_model(self.recipe.model, num_classes=len(data.classes), **self.recipe.model_overrides)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss, in nats, and with one class a video the accuracy, 0 to 1.

        Args:
            model: The network.
            batch: Clips, shape (B, 3, T, H, W), and targets, (B,), or (B, K) of zeros and ones.
        """
        clips, targets = batch
        scores = model(clips)
        if targets.dim() == 2:
            return F.binary_cross_entropy_with_logits(scores, targets), {}
        return F.cross_entropy(scores, targets), {"accuracy": (scores.argmax(1) == targets).float().mean()}

    def evaluate(
        self, model: nn.Module, data: VideoClips, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return the views, how many videos they cover, loss and score."""
        return evaluate_videos(
            model,
            data,
            batch_size=max(1, self.recipe.batch_size // self.recipe.accumulate),
            device=device,
            precision=self.recipe.precision,
            num_workers=self.recipe.num_workers,
            distributed=distributed,
        ).to_dict()

    def metadata(self, data: VideoClips) -> dict[str, Any]:
        """Return the classes, and how a clip is made of a video."""
        return {
            "classes": list(data.classes),
            "multi_label": data.multi_label,
            "sample_shape": list(data.sample_shape),
            "channels": 3,
            "image_size": [self.size, self.size],
            "stride": self.stride,
            "test_size": self.test_size,
            "mean": MEAN,
            "standard_deviation": STANDARD_DEVIATION,
        }
