"""What is learnt: the network, the data, the loss and the score, apart from how the loop runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn.data import LabelledImages, load_dataset
from nonlocalnn.evaluate import evaluate
from nonlocalnn.models import create_model, model_settings
from nonlocalnn.train.order import Samples
from nonlocalnn.train.recipe import Recipe

D = TypeVar("D", bound=Samples)


class Task(Protocol[D]):
    """What the training loop asks of a task; see :class:`ClassificationTask` for one."""

    @property
    def metric(self) -> str:
        """Name of the score that picks the best epoch, a key of what ``evaluate`` returns; more is better."""
        ...

    def data(self, split: str) -> D:
        """Return the split "train", "validation" or "test"; "test" is asked for once, after the training."""
        ...

    def model(self, data: D) -> nn.Module:
        """Return a new network for the training data, its weights drawn from torch's global generator."""
        ...

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over a collated batch, and further means to log, all of shape ()."""
        ...

    def evaluate(
        self, model: nn.Module, data: D, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return JSON values: "loss", the metric, and whatever else is worth keeping of the test."""
        ...

    def metadata(self, data: D) -> dict[str, Any]:
        """Return, as JSON values, what a user of the weights must know of the training data."""
        ...


@dataclass(frozen=True)
class ClassificationTask:
    """One label an image: cross-entropy, and accuracy as the score.

    Args:
        recipe: Names the data set and the network.
    """

    recipe: Recipe
    metric = "accuracy"

    def data(self, split: str) -> LabelledImages:
        """Return a split of the recipe's data set; only "train" is augmented."""
        return load_dataset(
            self.recipe.data,
            split,
            data_dir=self.recipe.data_dir,
            image_size=self.recipe.image_size,
            channels=self.recipe.channels,
            augment=self.recipe.augment and split == "train",
        )

    def model(self, data: LabelledImages) -> nn.Module:
        """Return the recipe's network with one output a class, for images of the data's size and channels.

        ``model_overrides`` win over what the data says.
        """
        fitting = {"in_channels": data.channels, "image_size": list(data.image_size)}
        known = model_settings(self.recipe.model)
        settings = {name: value for name, value in fitting.items() if name in known}
        settings.update(self.recipe.model_overrides)
        return create_model(self.recipe.model, num_classes=len(data.classes), **settings)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross-entropy, in nats, and the accuracy, 0 to 1.

        Args:
            model: The network.
            batch: Images, shape (B, C, H, W), and targets, shape (B,).
        """
        images, targets = batch
        scores = model(images)
        accuracy = (scores.argmax(1) == targets).float().mean()
        return F.cross_entropy(scores, targets), {"accuracy": accuracy}

    def evaluate(
        self, model: nn.Module, data: LabelledImages, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return loss, accuracy, recall of each class and the confusion matrix."""
        found = evaluate(
            model,
            data,
            # What trains in parts of this size fits in memory without gradients too.
            batch_size=self.recipe.batch_size // self.recipe.accumulate,
            device=device,
            precision=self.recipe.precision,
            num_workers=self.recipe.num_workers,
            distributed=distributed,
        )
        return found.to_dict()

    def metadata(self, data: LabelledImages) -> dict[str, Any]:
        """Return the classes, the image size in pixels (height, width) and the number of channels."""
        return {
            "classes": list(data.classes),
            "image_size": list(data.image_size),
            "channels": data.channels,
        }
