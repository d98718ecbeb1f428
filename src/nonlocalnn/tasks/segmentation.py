"""Segmentation: a class for each pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._names import GENERATED_MASK_SETS
from nonlocalnn.data.masks import IGNORED, MaskedImages, load_masks
from nonlocalnn.tasks.masks import evaluate_masks
from nonlocalnn.tasks.networks import build_network, check_task, check_unset, named_network
from nonlocalnn.tasks.recipe import Recipe

# The weight of the second head's loss, as in all published recipes.
_AUXILIARY_WEIGHT = 0.4
# Where the network is chosen for one's own files: what a CPU trains in minutes.
_SMALL_CROP, _SMALL_SIDE = 128, 160


@dataclass(frozen=True)
class PlacesTask:
    """What the tasks have in common whose answer is a class for each place: a pixel, a voxel or a step.

    Places with the id 255 are in no loss and in no figure.

    Args:
        recipe: Names the data set and the network.
    """

    recipe: Recipe

    def model(self, data: Any) -> nn.Module:
        """Return the recipe's network with one score a place for each class.

        Raises:
            ValueError: The data has one class, or the recipe weighs another number of them.
        """
        weights, number = self.recipe.class_weights, len(data.classes)
        if number < 2:
            raise ValueError(
                f"segmentation needs at least two classes; {self.recipe.data!r} has one, "
                f"{data.classes[0]!r}: name what is not of it too, such as 'background'"
            )
        if weights is not None and len(weights) != number:
            raise ValueError(
                f"class_weights must be one number for each of the {number} classes of "
                f"{self.recipe.data!r}; got {len(weights)}"
            )
        return build_network(self.recipe, data)

    def metadata(self, data: Any) -> dict[str, Any]:
        """Return the task, the classes, and how a sample becomes what the network takes."""
        return {
            "task": "segmentation",
            "classes": list(data.classes),
            "sample_shape": list(data.sample_shape),
            "channels": data.channels,
        }


@dataclass(frozen=True)
class SegmentationTask(PlacesTask):
    """Cross-entropy over the pixels, and the mean over the classes of intersection over union.

    Training sees squares cut out at random, validation and test whole images, one at a time, or by windows.

    Args:
        recipe: Names the data set and the network. The attribute has a network and sizes that fit the data
            where it leaves them open.

    Raises:
        ValueError: The network gives no class for each pixel, or a setting has no effect on the data.
    """

    metric: ClassVar[str] = "mean_iou"

    def __post_init__(self) -> None:
        recipe = self.recipe
        if recipe.channels is not None:
            raise ValueError("channels has no effect on images with masks, which have 3: leave it out")
        if recipe.data in GENERATED_MASK_SETS:
            given = ("data_dir", "image_size", "scales", "resize", "window")
            check_unset(recipe, given, f"{recipe.data!r}, which is generated")
        if recipe.scales is not None and not recipe.augment:
            raise ValueError("scales has an effect only with augment=True: leave it out")
        object.__setattr__(self, "recipe", _completed(recipe))
        assert self.recipe.model is not None, "filled in above"
        check_task(self.recipe.model, "segmentation")

    def data(self, split: str) -> MaskedImages:
        """Return a split of the recipe's data set; only "train" is cut into squares and varied."""
        recipe, is_train = self.recipe, split == "train"
        if recipe.data in GENERATED_MASK_SETS:
            return load_masks(recipe.data, split, augment=recipe.augment and is_train)
        return load_masks(
            recipe.data,
            split,
            data_dir=recipe.data_dir,
            image_size=recipe.image_size if is_train else None,
            scales=recipe.scales if is_train else None,
            resize=recipe.resize,
            augment=recipe.augment and is_train,
        )

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the pixels, in nats, and the share of them that is right, 0 to 1.

        The mean is weighted where the recipe weighs the classes. Where a batch is trained in parts, the mean
        of each part weighs the same, however many of its pixels are ignored.

        Args:
            model: The network. Where it has a second head, 0.4 times that one's loss is added.
            batch: Images, (B, 3, H, W), and masks, (B, H, W).
        """
        images, masks = batch
        masks = masks.long()
        found = model(images)
        scores = found["out"] if isinstance(found, Mapping) else found
        weights = self.recipe.class_weights
        loss = pixel_loss(scores, masks, weights)
        if isinstance(found, Mapping) and "aux" in found:
            loss = loss + _AUXILIARY_WEIGHT * pixel_loss(found["aux"], masks, weights)
        return loss, {"pixel_accuracy": share_right(scores, masks)}

    def evaluate(
        self, model: nn.Module, data: MaskedImages, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return the figures of :func:`~nonlocalnn.tasks.masks.evaluate_masks`."""
        return evaluate_masks(
            model,
            data,
            window=self.recipe.window,
            device=device,
            precision=self.recipe.precision,
            num_workers=self.recipe.num_workers,
            distributed=distributed,
        ).to_dict()

    def metadata(self, data: MaskedImages) -> dict[str, Any]:
        """See :meth:`PlacesTask.metadata`."""
        return {
            **super().metadata(data),
            "image_size": list(data.sample_shape[1:]),
            "mean": _plain(data.mean),
            "standard_deviation": _plain(data.standard_deviation),
            "resize": self.recipe.resize,
            "window": self.recipe.window,
        }


def share_right(scores: Tensor, ids: Tensor) -> Tensor:
    """Return the share of the places that have a class whose highest score is that class, 0 to 1."""
    known = ids != IGNORED
    return ((scores.argmax(1) == ids) & known).sum() / known.sum().clamp(min=1)


def pixel_loss(scores: Tensor, masks: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Return the mean cross-entropy over the pixels that have a class; 0 where none has.

    Args:
        scores: (B, K, H, W).
        masks: Classes, int64 (B, H, W), or ``IGNORED``.
        weights: How much a pixel of each class counts, K of them; None is 1 each.

    Example:
        >>> float(pixel_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]])))
        0.6931471824645996
    """
    known = masks != IGNORED
    # Sums over so many pixels lose whole pixels in half precision.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    # PyTorch's own mean of no pixel is not a number, and a square cut at random may have none.
    if weights is None:
        total = F.cross_entropy(scores, masks, ignore_index=IGNORED, reduction="sum")
        return total / known.sum().clamp(min=1)
    weight = torch.tensor(weights, dtype=scores.dtype, device=scores.device)
    total = F.cross_entropy(scores, masks, weight=weight, ignore_index=IGNORED, reduction="sum")
    sum_of_weights = weight[masks.where(known, 0)].where(known, 0).sum()
    return total / sum_of_weights.clamp(min=min(weights))


def _completed(recipe: Recipe) -> Recipe:
    """Return a recipe with a network and sizes where it leaves them open."""
    if recipe.data in GENERATED_MASK_SETS:
        return replace(recipe, model="nl_fcn_tiny") if recipe.model is None else recipe
    if recipe.model is None:
        crop = _SMALL_CROP if recipe.image_size is None else recipe.image_size
        side = _SMALL_SIDE if recipe.resize is None else recipe.resize
        return replace(recipe, model="nl_fcn_tiny", image_size=crop, resize=side)
    if recipe.image_size is None:
        return replace(recipe, image_size=named_network(recipe.model).sample_shape[-1])
    return recipe


def _plain(values: Any) -> Any:
    return list(values) if isinstance(values, tuple) else values
