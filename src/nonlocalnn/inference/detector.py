"""A trained detector together with its classes, ready to be asked about images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._device import Precision
from nonlocalnn._errors import check_whole
from nonlocalnn._names import OBJECT_SETS
from nonlocalnn.checkpoints import CheckpointError, Imported, import_checkpoint
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.data import read_image
from nonlocalnn.data.objects import AnnotatedImages, PointNames, load_objects
from nonlocalnn.inference.model_facts import facts_of
from nonlocalnn.inference.trained import Trained
from nonlocalnn.models import DetectionNetwork
from nonlocalnn.tasks.inputs import ShownInput, check_place, shown_image
from nonlocalnn.tasks.objects import Found, found_objects


@dataclass(frozen=True, eq=False)
class Detected:
    """What was found on one image, or why it could not be read.

    Args:
        path: The file.
        image: As it looks, float32 (3, H, W) in [0, 1]; None where it cannot be read.
        found: What :func:`~nonlocalnn.tasks.objects.found_objects` gives.
        error: Why it cannot be read; None where it can.
    """

    path: Path
    image: Tensor | None = None
    found: Found | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Detector(Trained):
    """A detector and what it was trained on; see :class:`Trained` for the rest.

    Args:
        class_ids: The number that the data gave each class, used in results.
        points: Names of the points that it finds of each object; None where it finds none.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("maskrcnn_tiny").eval()
        >>> detector = Detector(model=model, classes=("a", "b"), class_ids=(1, 2), sample_shape=(3, 96, 128))
        >>> sorted(detector.objects(torch.rand(3, 40, 50)))
        ['boxes', 'labels', 'masks', 'scores']
    """

    model: DetectionNetwork
    class_ids: tuple[int, ...]
    points: PointNames | None = None

    def load_dataset(
        self, name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
    ) -> AnnotatedImages:
        """Return a split of a data set of images with objects.

        Args:
            name: See :func:`nonlocalnn.data.objects.load_objects`, and so the others.
            split: "train", "validation" or "test".
            data_dir: Where the files are; None is where those of the training were, for the same data set.

        Raises:
            ValueError: The data set has no objects.
        """
        if name not in OBJECT_SETS:
            raise ValueError(
                f"the model was trained for detection, and {name!r} has no objects: choose one of "
                f"{', '.join(OBJECT_SETS)}"
            )
        is_own = name == self.recipe.get("data")
        max_broken = (self.recipe.get("max_broken") or None) if is_own else None
        return load_objects(name, split, data_dir=self.folder(name, data_dir), max_broken=max_broken)

    def show(self, path: str | os.PathLike[str]) -> ShownInput:
        """Return an image file as it looks; the network brings it to its size by itself.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        own = read_image(path, image_size=None, channels=3)
        # Positions of maps are counted in pixels of the image itself, also where it is shown smaller.
        return shown_image(path, own, own, own)

    def take(self, dataset: AnnotatedImages, index: int, *, split: str) -> ShownInput:
        """Return image ``index`` of a split of :meth:`load_dataset`, as :meth:`show` does a file.

        Raises:
            ValueError: There is no such image.
        """
        check_place(index, len(dataset))
        image = dataset.image(index)
        return ShownInput(name=f"{split}-{index}", sample=image, pixels=image, picture=image)

    @torch.no_grad()
    def objects(self, image: Tensor, *, precision: Precision = "fp32") -> Found:
        """Return the objects on an image, (3, H, W) in [0, 1], the best first, on the CPU.

        See :func:`~nonlocalnn.tasks.objects.found_objects`.
        """
        return found_objects(self.model, image.to(self.device), precision=precision)

    def predict_many(
        self, inputs: Iterable[str | os.PathLike[str]], *, precision: Precision = "fp32"
    ) -> Iterator[Detected]:
        """Return an iterator over what is found on files, and on those in folders.

        Args:
            inputs: Files, and folders of them.
            precision: "fp32", "bf16" or "fp16".
        """

        def detected(path: Path) -> Detected:
            image = read_image(path, image_size=None, channels=3)
            return Detected(path, image, self.objects(image, precision=precision))

        return self.answers(inputs, detected, lambda path, error: Detected(path, error=error))


def load_detector(path: str | os.PathLike[str]) -> Detector:
    """Load a detector from a checkpoint or a run's folder.

    Args:
        path: A checkpoint of ours, or the folder of a run, whose best weights are taken.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file is of another task, or a fact in it is wrong.

    Example:
        >>> import tempfile
        >>> from nonlocalnn import create_model, save_checkpoint
        >>> path = tempfile.mkdtemp() + "/scenes.safetensors"
        >>> save_checkpoint(create_model("maskrcnn_tiny"), path, metadata={"classes": ["a", "b"]})
        >>> load_detector(path).class_ids
        (1, 2)
    """
    path = weights_file(path)
    return detector_of(path, import_checkpoint(path))


def detector_of(path: Path, found: Imported) -> Detector:
    """Return the detector that an opened checkpoint holds; see :func:`load_detector`."""
    known, facts, assumed = facts_of(path, found, "detection", assumable=("classes",))
    if not isinstance(found.model, DetectionNetwork):
        raise CheckpointError(
            f"{path} says that it was trained for detection, and its network finds no objects"
        )
    num_classes = len(facts["classes"])
    class_ids = known.get("class_ids", list(range(1, num_classes + 1)))
    try:
        for number in class_ids:
            check_whole("each of class_ids", number, least=0)
        if len(set(class_ids)) != num_classes:
            raise ValueError(f"class_ids must be {num_classes} different numbers; got {class_ids!r:.80}")
        points = _points(known.get("keypoints"), found.model.num_keypoints)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not say what its model takes: {error}") from None
    given = {name: facts[name] for name in ("classes", "sample_shape", "recipe")}
    model = found.model.eval()
    return Detector(model=model, class_ids=tuple(class_ids), points=points, **given, assumed=assumed)


def _points(value: Any, number: int) -> PointNames | None:
    """Return the names of a network's points, numbers where its file has none.

    Raises:
        ValueError: They are no such names, or not as many as the network finds.
    """
    if not number:
        return None
    points = PointNames(tuple(map(str, range(number)))) if value is None else PointNames.from_dict(value)
    if len(points.names) != number:
        raise ValueError(f"keypoints names {len(points.names)} of a model with {number}")
    return points
