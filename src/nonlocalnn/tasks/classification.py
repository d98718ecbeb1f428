"""Classification: one class a sample or several, whatever the samples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn.data import LabelledSamples
from nonlocalnn.tasks.evaluation import evaluate
from nonlocalnn.tasks.inputs import InputKind
from nonlocalnn.tasks.kinds import kind_named, kind_of_data, kind_of_samples
from nonlocalnn.tasks.networks import build_network, check_task, named_network
from nonlocalnn.tasks.probabilities import real_part
from nonlocalnn.tasks.recipe import Recipe


@dataclass(frozen=True)
class ClassificationTask:
    """Cross-entropy and accuracy; where a sample may have several classes, each by itself.

    With several classes a sample the loss is the mean binary cross-entropy and the score mean average
    precision.

    Args:
        recipe: Names the data set and the network. The attribute has a network, and where that needs it a
            size, that fit the data where it leaves them open.

    Raises:
        ValueError: The network takes another kind of input than the data set has, or a setting of the recipe
            has no effect on it.
    """

    recipe: Recipe

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", self.input.completed(self.recipe))
        assert self.recipe.model is not None, "filled in above"
        check_task(self.recipe.model, "classification")
        self.input.check(self.recipe)

    @property
    def input(self) -> InputKind:
        """What kind of input the recipe's data set has."""
        return kind_of_data(self.recipe.data)

    @property
    def metric(self) -> str:
        """The score: mean average precision where a sample may have several classes."""
        return "mean_average_precision" if self._validation.multi_label else "accuracy"

    @cached_property
    def _validation(self) -> LabelledSamples:
        return self.input.dataset(self.recipe, "validation")

    def data(self, split: str) -> LabelledSamples:
        """Return a split of the recipe's data set; only "train" is augmented."""
        return self._validation if split == "validation" else self.input.dataset(self.recipe, split)

    def model(self, data: LabelledSamples) -> nn.Module:
        """Return the recipe's network with one output a class, for samples of the data's size and channels.

        ``model_overrides`` win over what the data says.

        Raises:
            ValueError: The network is for samples of another rank, such as images where the data has clips;
                or the data has one class only, and there is nothing to tell apart.
        """
        recipe = self.recipe
        assert recipe.model is not None, "filled in above"
        # A sample that may have several classes has none as well, so that one class is a question there.
        if len(data.classes) < 2 and not data.multi_label:
            where = "" if recipe.data_dir is None else f" in {recipe.data_dir}"
            raise ValueError(
                f"a classifier needs at least two classes; {recipe.data!r}{where} has one, "
                f"{data.classes[0]!r}: add a folder or rows of another class, or name the folder above"
            )
        network, has = named_network(recipe.model), self.input
        num_sides = recipe.model_overrides.get("num_sides", network.num_sides)
        # A number of sides that no network has is refused by the network itself.
        takes = kind_of_samples((1,) * (num_sides + 1)) if num_sides in (1, 2, 3) else has
        if num_sides == network.num_sides:
            takes = kind_named(network.input)
        if takes.name != has.name:
            raise ValueError(
                f"model {recipe.model!r} takes {takes.samples}, and the samples of {recipe.data!r} are "
                f"{has.samples} of shape {data.sample_shape}: choose a network for {has.samples}, see "
                "nonlocalnn models"
            )
        return build_network(recipe, data)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Return the mean loss, in nats, and with one class a sample the accuracy, 0 to 1.

        Args:
            model: The network.
            batch: Samples, (B, C, \*sides), and targets, (B,), or (B, K) of zeros and ones; where samples are
                padded, their real sizes, (B, sides), too.
        """
        samples, targets, *lengths = batch
        with real_part(samples, lengths):
            scores = model(samples)
        if targets.dim() == 2:
            return F.binary_cross_entropy_with_logits(scores, targets), {}
        return F.cross_entropy(scores, targets), {"accuracy": (scores.argmax(1) == targets).float().mean()}

    def evaluate(
        self, model: nn.Module, data: LabelledSamples, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return the figures of :func:`~nonlocalnn.tasks.evaluation.evaluate`."""
        batch_size = self.recipe.batch_size
        found = evaluate(
            model,
            data,
            # What trains in parts of this size fits in memory without gradients too.
            batch_size=max(1, (64 if batch_size is None else batch_size) // self.recipe.accumulate),
            device=device,
            precision=self.recipe.precision,
            num_workers=self.recipe.num_workers,
            distributed=distributed,
        )
        return found.to_dict()

    def metadata(self, data: LabelledSamples) -> dict[str, Any]:
        """Return the classes, the shape of a sample, its channels and, in pixels, its (height, width).

        Sequences and volumes have no ``image_size``; videos and volumes have more, see
        :class:`~nonlocalnn.tasks.videos.Videos` and :class:`~nonlocalnn.tasks.volumes.Volumes`.
        """
        facts = {
            "classes": list(data.classes),
            "sample_shape": list(data.sample_shape),
            "channels": data.channels,
            "multi_label": data.multi_label,
        }
        if len(data.sample_shape) > 2 and self.input.name != "volume":
            facts["image_size"] = list(data.sample_shape[-2:])
        return facts | self.input.metadata(self.recipe, data)
