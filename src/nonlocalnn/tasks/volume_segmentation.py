"""Segmentation of volumes: a class for each voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nonlocalnn.data.masks.masked import IGNORED
from nonlocalnn.data.volumes.masked import MaskedVolumes, load_volume_masks
from nonlocalnn.data.volumes.reading import Reading
from nonlocalnn.models import UNet3d
from nonlocalnn.tasks.networks import check_task, check_unset, named_network
from nonlocalnn.tasks.segmentation import PlacesTask, pixel_loss, share_right
from nonlocalnn.tasks.volume_masks import evaluate_volumes

# What a CPU trains in minutes.
_SMALL_NETWORK, _SMALL_SIDE, _PATCHES = "nl_unet3d_tiny", 48, 8


@dataclass(frozen=True)
class VolumeSegmentationTask(PlacesTask):
    """Cross-entropy and overlap over the voxels, and the mean Dice coefficient over volumes and classes.

    Training sees patches cut out at random, validation and test whole volumes by windows that overlap.
    Distances between surfaces are measured in the test.

    Args:
        recipe: Names the data set and the network. The attribute has a network and sizes that fit the data
            where it leaves them open.

    Raises:
        ValueError: The network gives no class for each voxel, or a setting has no effect on volumes.
    """

    metric: ClassVar[str] = "mean_dice"

    def __post_init__(self) -> None:
        recipe = self.recipe
        check_unset(recipe, ("scales", "resize", "channels"), "volumes")
        model = _SMALL_NETWORK if recipe.model is None else recipe.model
        check_task(model, "segmentation", of="volume")
        size = recipe.image_size
        if size is None:
            size = _SMALL_SIDE if recipe.model is None else named_network(model).sample_shape[-1]
        object.__setattr__(self, "recipe", replace(recipe, model=model, image_size=size))

    @property
    def reading(self) -> Reading:
        """How volumes are read."""
        return Reading(self.recipe.spacing, self.recipe.intensity)

    @property
    def window(self) -> int:
        """Side of the windows of validation and test, in voxels."""
        size = self.recipe.image_size if self.recipe.window is None else self.recipe.window
        assert size is not None, "filled in above"
        return size

    def data(self, split: str) -> MaskedVolumes:
        """Return a split of the recipe's data set; only "train" is cut into several patches and varied."""
        recipe, is_train = self.recipe, split == "train"
        patches = _PATCHES if recipe.patches is None else recipe.patches
        data = load_volume_masks(
            recipe.data_dir,
            split,
            image_size=recipe.image_size,
            reading=self.reading,
            patches=patches if is_train else 1,
            augment=recipe.augment and is_train,
        )
        data.measures_surfaces = split == "test"
        return data

    def model(self, data: Any) -> nn.Module:
        """See :meth:`PlacesTask.model`.

        Raises:
            ValueError: See there; or patches or windows are too small for the network.
        """
        model = super().model(data)
        # Said before the training, and not at its first step or its first validation.
        least = 2 ** len(model.down) if isinstance(model, UNet3d) else 0
        for name, side in (("image_size", self.recipe.image_size), ("window", self.window)):
            if side is not None and side <= least:
                raise ValueError(f"{name} must be more than {least} voxels for this network; got {side}")
        return model

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return cross-entropy plus one less the overlap, and the share of voxels that is right, 0 to 1.

        The first is a mean over the voxels, weighted where the recipe weighs the classes; the second gives
        small bodies a say. Both are published recipes' of such networks.

        Args:
            model: The network.
            batch: Patches, (B, C, D, H, W), and masks, (B, D, H, W).
        """
        patches, masks = batch
        masks = masks.long()
        scores = model(patches)
        loss = pixel_loss(scores, masks, self.recipe.class_weights) + 1 - soft_dice(scores, masks)
        return loss, {"voxel_accuracy": share_right(scores, masks)}

    def evaluate(
        self, model: nn.Module, data: MaskedVolumes, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return the figures of :func:`~nonlocalnn.tasks.volume_masks.evaluate_volumes`."""
        return evaluate_volumes(
            model,
            data,
            window=self.window,
            surfaces=data.measures_surfaces,
            device=device,
            precision=self.recipe.precision,
            distributed=distributed,
        ).to_dict()

    def metadata(self, data: MaskedVolumes) -> dict[str, Any]:
        """See :meth:`PlacesTask.metadata`."""
        return {**super().metadata(data), "volume": self.reading.to_dict(), "window": self.window}


def soft_dice(scores: Tensor, masks: Tensor) -> Tensor:
    """Return the mean over the classes of 2 sum(p t) / (sum(p) + sum(t)), p the probabilities, 0 to 1.

    Sums are over the voxels of the batch that have a class; a class that is not there counts as 0 shared of
    what is given it.

    Args:
        scores: (B, K, D, H, W).
        masks: Classes, int64 (B, D, H, W), or ``IGNORED``.

    Example:
        >>> sure = torch.tensor([[[[[-9.0, 9.0]]], [[[9.0, -9.0]]]]])
        >>> round(float(soft_dice(sure, torch.tensor([[[[1, 0]]]]))), 3)
        1.0
    """
    known = (masks != IGNORED).unsqueeze(1)
    # In half precision sums over so many voxels lose whole voxels.
    shares = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(1) * known
    wanted = torch.zeros_like(shares).scatter_(1, masks.unsqueeze(1).where(known, 0), 1.0) * known
    dims = (0, 2, 3, 4)
    both, sizes = (shares * wanted).sum(dims), shares.sum(dims) + wanted.sum(dims)
    # One voxel more in both: of a class that is neither there nor given the overlap is whole.
    return ((2 * both + 1) / (sizes + 1)).mean()
