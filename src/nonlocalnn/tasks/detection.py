"""Detection: boxes, classes, and masks or points of the objects on an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._names import GENERATED_OBJECT_SETS, POINT_SETS
from nonlocalnn.data.objects import AnnotatedImages, load_objects
from nonlocalnn.models import DetectionNetwork
from nonlocalnn.tasks.networks import build_network, check_task, check_unset
from nonlocalnn.tasks.objects import evaluate_objects
from nonlocalnn.tasks.recipe import Recipe

# Networks that are taken where none is named: of generated scenes those that they are made for.
_OF_GENERATED = {"detect-cue": "nl1_maskrcnn_tiny", "keypoint-cue": "nl2head1_keypointrcnn_tiny"}
# Where the network is chosen for one's own files: what a CPU trains in minutes.
_SMALL_SIDE = 256


@dataclass(frozen=True)
class DetectionTask:
    """The losses of proposals, boxes, classes and masks or points, added up, and COCO's average precision.

    Images keep their shapes, and a batch is a list of them. Where a batch is trained in parts, each part's
    losses are means over its own regions, and the parts weigh the same.

    Args:
        recipe: Names the data set and the network. The attribute has a network and a size that fit the data
            where it leaves them open.

    Raises:
        ValueError: The network finds no objects, or a setting has no effect on the data.
    """

    recipe: Recipe
    # Of the split that was read first: all must have the same.
    _classes: list[tuple[str, ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    _train: list[AnnotatedImages] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        if recipe.channels is not None:
            raise ValueError("channels has no effect on images with objects, which have 3: leave it out")
        if recipe.image_size is not None:
            raise ValueError(
                "image_size has no effect on images with objects, which keep their shapes: set resize, their "
                "short side"
            )
        if recipe.data in GENERATED_OBJECT_SETS:
            check_unset(recipe, ("data_dir", "resize"), f"{recipe.data!r}, which is generated")
        if recipe.parallel == "fsdp":
            raise ValueError("parallel='fsdp' was not tried with detectors: leave it out")
        if recipe.model is None:
            object.__setattr__(self, "recipe", self._completed())
        assert self.recipe.model is not None, "filled in above"
        check_task(self.recipe.model, "detection")

    @property
    def metric(self) -> str:
        """The score by which the best epoch is chosen: of points where the data has them, else of boxes."""
        return "keypoint_ap" if self.recipe.data in POINT_SETS else "box_ap"

    def _completed(self) -> Recipe:
        """Return the recipe with a small network, with a head of masks or points where the data has them."""
        recipe = self.recipe
        if recipe.data in _OF_GENERATED:
            return replace(recipe, model=_OF_GENERATED[recipe.data])
        side = _SMALL_SIDE if recipe.resize is None else recipe.resize
        if recipe.data in POINT_SETS:
            return replace(recipe, model="nl2head1_keypointrcnn_tiny", resize=side)
        self._train.append(self._load("train"))
        kind = "maskrcnn" if self._train[0].has_masks else "fasterrcnn"
        return replace(recipe, model=f"nl1_{kind}_tiny", resize=side)

    def data(self, split: str) -> AnnotatedImages:
        """Return a split of the recipe's data set; only "train" is mirrored, and leaves crowds out.

        Raises:
            ValueError: Nothing is marked, or it has other classes than the split that was asked for first.
        """
        found = self._train.pop() if split == "train" and self._train else self._load(split)
        if not self._classes:
            self._classes.append(found.classes)
        if found.classes != self._classes[0]:
            raise ValueError(
                f"all splits must have the same classes; {split} has {', '.join(found.classes[:8])}, and the "
                f"first one {', '.join(self._classes[0][:8])}"
            )
        # Now, and not after the first epoch: there would be nothing to learn from, or to compare with.
        if all(each.is_crowd for place in range(len(found)) for each in found.sheet(place).objects):
            raise ValueError(f"no object is marked on the {len(found)} images of {split}: mark some")
        if found.points is not None and not any(found.sheet(place).has_point for place in range(len(found))):
            raise ValueError(
                f"no keypoint is marked on the {len(found)} images of {split}: visibilities are 0; "
                "mark some, or use data 'coco' for boxes alone"
            )
        return found

    def _load(self, split: str) -> AnnotatedImages:
        recipe = self.recipe
        return load_objects(
            recipe.data,
            split,
            data_dir=recipe.data_dir,
            augment=recipe.augment and split == "train",
            max_broken=recipe.max_broken or None,
        )

    def model(self, data: AnnotatedImages) -> nn.Module:
        """Return the recipe's network with as many classes as the data has.

        Raises:
            ValueError: It finds masks or keypoints, and the data has none.
        """
        recipe = self.recipe
        overrides: dict[str, Any] = {} if recipe.resize is None else {"min_size": recipe.resize}
        if data.points is not None and "keypointrcnn" in (recipe.model or ""):
            overrides["num_keypoints"] = len(data.points.names)
        if overrides:
            recipe = replace(recipe, model_overrides={**overrides, **recipe.model_overrides})
        model = build_network(recipe, data)
        assert isinstance(model, DetectionNetwork), "checked by its task"
        own = 0 if data.points is None else len(data.points.names)
        if model.num_keypoints != own:
            raise ValueError(
                f"model {recipe.model!r} finds {model.num_keypoints or 'no'} keypoints of an object, and "
                f"{recipe.data!r} has {own or 'none'}: choose "
                + ("keypointrcnn_tiny, or leave num_keypoints out" if own else "a maskrcnn or a fasterrcnn")
            )
        if model.has_masks and not data.has_masks:
            assert recipe.model is not None, "it was built"
            raise ValueError(
                f"model {recipe.model!r} finds masks, and {recipe.data!r} has boxes only: choose "
                f"{recipe.model.replace('maskrcnn', 'fasterrcnn')}"
            )
        return model

    def loss(self, model: nn.Module, batch: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses, and each of them by its name.

        Args:
            model: The network, in train mode.
            batch: A list of images, (3, h, w), and a list of targets.
        """
        images, targets = batch
        losses = model(images, targets)
        total = torch.stack([each.float() for each in losses.values()]).sum()
        return total, dict(losses)

    def evaluate(
        self, model: nn.Module, data: AnnotatedImages, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return the figures of :func:`~nonlocalnn.tasks.objects.evaluate_objects`."""
        figures, _ = evaluate_objects(
            model,
            data,
            device=device,
            precision=self.recipe.precision,
            num_workers=self.recipe.num_workers,
            distributed=distributed,
        )
        return figures.to_dict()

    def metadata(self, data: AnnotatedImages) -> dict[str, Any]:
        """Return the task, the classes, the numbers that the data set gives them, and names of points."""
        points = {} if data.points is None else {"keypoints": data.points.to_dict()}
        return {
            **points,
            "task": "detection",
            "classes": list(data.classes),
            "class_ids": list(data.class_ids),
            "sample_shape": list(data.sample_shape),
            "channels": data.channels,
            "image_size": list(data.sample_shape[1:]),
            "mean": 0.0,
            "standard_deviation": 255.0,
        }
