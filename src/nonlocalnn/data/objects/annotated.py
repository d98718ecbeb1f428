"""Images with objects, each a box and a class, perhaps a mask: what every such data set offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnn.data.class_names import warn_of_alike
from nonlocalnn.data.normalization import ChannelValues
from nonlocalnn.data.objects.points import Point, PointNames
from nonlocalnn.data.objects.runs import decoded

Target = dict[str, Tensor]
# Images, and what is on each: they differ in size, and so a batch is a list.
Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True)
class Marked:
    """An object that somebody marked on an image.

    Args:
        label: Number of its class, from 1 on: 0 is the background.
        box: (left, top, width, height) in pixels, as its file has it.
        shape: Its mask as COCO writes it: polygons, or run lengths; None where it has a box only.
        is_crowd: Whether it stands for many that were not marked one by one; VOC's "difficult" ones are
            treated alike. Training leaves it out, and in evaluation it counts neither way.
        area: In pixels, by which figures tell small from large; None is the box's.
        points: Its K points as x, y and visibility; None where the data set has none.
    """

    label: int
    box: tuple[float, float, float, float]
    shape: Any = None
    is_crowd: bool = False
    area: float | None = None
    points: Sequence[Point] | None = None


@dataclass(frozen=True)
class Sheet:
    """An image and what is marked on it.

    Args:
        number: The id that its file gives the image, kept in results.
        name: Name of the image.
        height: In pixels.
        width: In pixels.
        objects: What is marked.
    """

    number: int
    name: str
    height: int
    width: int
    objects: Sequence[Marked] = field(default_factory=tuple)

    @property
    def has_point(self) -> bool:
        """Whether a point of an object that counts is marked."""
        counting = (each.points or () for each in self.objects if not each.is_crowd)
        return any(point[2] for points in counting for point in points)


class AnnotatedImages(Dataset[tuple[Tensor, Target]], ABC):
    """Images, each with the objects on it.

    ``dataset[i]`` is ``(image, target)``: float32 (3, h, w) in [0, 1], in its own size, and a dictionary of
    ``boxes``, float32 (n, 4) as left, top, right, bottom in pixels, ``labels``, int64 (n,), from 1 on, and
    ``masks``, uint8 (n, h, w), or ``keypoints``, float32 (n, K, 3) as x, y and visibility, where the data
    set has them. Outside of training ``is_crowd``, bool (n,), is
    among them; training has no crowds.

    Args:
        classes: Names of the classes, in the order of the labels, the first of which is 1.
        sample_shape: (3, H, W) of the first image: others may have another size.
        class_ids: The numbers that the files give the classes; None is 1, 2 and so on.
        has_masks: Whether each object has a mask.
        points: What the points of each object are called; None where objects have none.
        is_training: Leave crowds out.
        mirror: Mirror half of the images, by torch's global random numbers. Points of the left and of the
            right change places.

    Raises:
        ValueError: There are no classes; or images are to be mirrored, and a point of one side has none of
            the other.
    """

    # Detectors take pixels from 0 to 1 and normalise them by themselves.
    mean: ChannelValues = 0.0
    standard_deviation: ChannelValues = 255.0

    def __init__(
        self,
        *,
        classes: Sequence[str],
        sample_shape: Sequence[int],
        class_ids: Sequence[int] | None = None,
        has_masks: bool,
        points: PointNames | None = None,
        is_training: bool = False,
        mirror: bool = False,
    ) -> None:
        if not classes:
            raise ValueError("there must be a class at least; got none")
        warn_of_alike(classes)
        self.classes = tuple(classes)
        self.class_ids = tuple(range(1, len(classes) + 1)) if class_ids is None else tuple(class_ids)
        self.sample_shape = tuple(sample_shape)
        self.has_masks = has_masks
        self.points = points
        self._swapped = points.swapped() if points is not None and mirror else None
        self._is_training = is_training
        self._mirrors = mirror

    @property
    def channels(self) -> int:
        """C of the images."""
        return 3

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sheet(self, index: int) -> Sheet:
        """Return what is marked on image ``index``."""

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Return image ``index``, float32 (3, h, w) in [0, 1]."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """Return a name for image ``index`` that does not depend on the split or on its order."""

    @property
    def groups(self) -> list[int]:
        """Whether each image is wide: training makes batches of one kind, for the sake of less padding."""
        return [int(sheet.width > sheet.height) for sheet in map(self.sheet, range(len(self)))]

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        index = range(len(self))[index]  # its IndexError is what ends iteration
        image = self.image(index)
        target = self._target(self.sheet(index))
        if self._mirrors and bool(torch.rand(()) < 0.5):
            return mirrored(image, target, self._swapped)
        return image, target

    def collate(self, items: Sequence[tuple[Tensor, Target]]) -> Batch:
        """Return a batch: lists of images and of targets."""
        return [image for image, _ in items], [target for _, target in items]

    def _target(self, sheet: Sheet) -> Target:
        objects = [each for each in sheet.objects if not (self._is_training and each.is_crowd)]
        sides = torch.tensor([sheet.width, sheet.height] * 2, dtype=torch.float32)
        boxes = torch.tensor([each.box for each in objects], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            # What is marked beyond an image's edge is cut off: there are no pixels to learn it from.
            "boxes": torch.minimum(boxes.clamp(min=0), sides),
            "labels": torch.tensor([each.label for each in objects], dtype=torch.int64),
        }
        if self.has_masks:
            size = (sheet.height, sheet.width)
            masks = [decoded(each.shape, *size) for each in objects]
            target["masks"] = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.uint8)
        if self.points is not None:
            points = [each.points for each in objects]
            target["keypoints"] = torch.tensor(points, dtype=torch.float32).view(
                -1, len(self.points.names), 3
            )
        if not self._is_training:
            target["is_crowd"] = torch.tensor([each.is_crowd for each in objects], dtype=torch.bool)
        return target

    def truth(self) -> dict[str, Any]:
        """Return what is marked on all images as COCO's JSON has it, for evaluation by COCO's rules."""
        annotations: list[dict[str, Any]] = []
        images = []
        for sheet in map(self.sheet, range(len(self))):
            images.append({"id": sheet.number, "height": sheet.height, "width": sheet.width})
            for each in sheet.objects:
                annotations.append(
                    {
                        # Counted anew, from 1: pycocotools takes an object of number 0 for one not found.
                        "id": len(annotations) + 1,
                        "image_id": sheet.number,
                        "category_id": self.class_ids[each.label - 1],
                        "bbox": list(each.box),
                        "area": each.box[2] * each.box[3] if each.area is None else each.area,
                        "iscrowd": int(each.is_crowd),
                        **({} if each.shape is None else {"segmentation": each.shape}),
                        **({} if each.points is None else _in_cocos_words(each.points)),
                    }
                )
        more: dict[str, Any] = {}
        if self.points is not None:
            pairs = [[first + 1, second + 1] for first, second in self.points.skeleton]
            more = {"keypoints": list(self.points.names), "skeleton": pairs}
        categories = [
            {"id": number, "name": name, **more}
            for number, name in zip(self.class_ids, self.classes, strict=True)
        ]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _in_cocos_words(points: Sequence[Point]) -> dict[str, Any]:
    """Return an object's points as COCO's JSON has them: one list, and how many are marked."""
    numbers = [number for point in points for number in point]
    return {"keypoints": numbers, "num_keypoints": sum(point[2] > 0 for point in points)}


def mirrored(
    image: Tensor, target: Mapping[str, Tensor], swapped: Sequence[int] | None = None
) -> tuple[Tensor, Target]:
    """Return an image mirrored left to right, and its objects.

    Args:
        image: (3, h, w).
        target: As :class:`AnnotatedImages` has it.
        swapped: For each point the one that takes its place; None where there are no points.

    Example:
        >>> target = {"boxes": torch.tensor([[1.0, 2.0, 4.0, 5.0]]), "labels": torch.tensor([1])}
        >>> mirrored(torch.zeros(3, 8, 10), target)[1]["boxes"].tolist()
        [[6.0, 2.0, 9.0, 5.0]]
    """
    changed = dict(target)
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[-1]
    changed["boxes"] = torch.stack([width - right, top, width - left, bottom], 1)
    if "masks" in target:
        changed["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        assert swapped is not None, "who mirrors points says which change places"
        x, y, visible = target["keypoints"][:, list(swapped)].unbind(2)
        # Corners of boxes lie between pixels, and points are pixels: the first becomes the last.
        x = torch.where(visible > 0, width - 1 - x, x)
        changed["keypoints"] = torch.stack([x, y, visible], 2)
    return image.flip(-1), changed
