"""What is learnt: the network, the data, the loss and the score, apart from how the loop runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.evaluate import evaluate
from nonlocalnn.models import create_model, model_settings, sample_shape
from nonlocalnn.train.order import Samples
from nonlocalnn.train.recipe import Recipe

D = TypeVar("D", bound=Samples)
# What a network takes, by the number of its sides.
_KINDS = {1: "sequences", 2: "images", 3: "clips"}


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
    """One label a sample: cross-entropy, and accuracy as the score.

    Args:
        recipe: Names the data set and the network.
    """

    recipe: Recipe
    metric = "accuracy"

    def data(self, split: str) -> LabelledSamples:
        """Return a split of the recipe's data set; only "train" is augmented."""
        return load_dataset(
            self.recipe.data,
            split,
            data_dir=self.recipe.data_dir,
            image_size=self.recipe.image_size,
            channels=self.recipe.channels,
            augment=self.recipe.augment and split == "train",
            max_broken=self.recipe.max_broken,
        )

    def model(self, data: LabelledSamples) -> nn.Module:
        """Return the recipe's network with one output a class, for samples of the data's size and channels.

        ``model_overrides`` win over what the data says.

        Raises:
            ValueError: The network is for samples of another rank, such as images where the data has clips.
        """
        recipe = self.recipe
        num_sides = recipe.model_overrides.get("num_sides", len(sample_shape(recipe.model)) - 1)
        takes, has = _KINDS.get(num_sides), _KINDS[len(data.sample_shape) - 1]
        # A number of sides that no network has is refused by the network itself.
        if takes is not None and takes != has:
            raise ValueError(
                f"model {recipe.model!r} takes {takes}, and the samples of {recipe.data!r} are {has} of "
                f"shape {data.sample_shape}: choose a network for {has}, see nonlocalnn models"
            )
        fitting = {"in_channels": data.channels, "image_size": list(data.sample_shape[-2:])}
        known = model_settings(recipe.model)
        settings = {name: value for name, value in fitting.items() if name in known}
        settings.update(recipe.model_overrides)
        return create_model(recipe.model, num_classes=len(data.classes), **settings)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross-entropy, in nats, and the accuracy, 0 to 1.

        Args:
            model: The network.
            batch: Samples, shape (B, C, sides), and targets, shape (B,).
        """
        samples, targets = batch
        scores = model(samples)
        accuracy = (scores.argmax(1) == targets).float().mean()
        return F.cross_entropy(scores, targets), {"accuracy": accuracy}

    def evaluate(
        self, model: nn.Module, data: LabelledSamples, *, device: torch.device, distributed: bool
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

    def metadata(self, data: LabelledSamples) -> dict[str, Any]:
        """Return the classes, the shape of a sample, its channels and, in pixels, its (height, width).

        Sequences have no ``image_size``.
        """
        facts = {
            "classes": list(data.classes),
            "sample_shape": list(data.sample_shape),
            "channels": data.channels,
        }
        if len(data.sample_shape) > 2:
            facts["image_size"] = list(data.sample_shape[-2:])
        return facts
