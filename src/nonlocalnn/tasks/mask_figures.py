"""What one pass over images with masks, or sequences with labelled steps, found: one matrix tells all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nonlocalnn._errors import counted
from nonlocalnn.tasks.figures import ConfusionFigures, by_class, class_table, in_text, mean_of_defined


@dataclass(frozen=True, kw_only=True)
class SegmentationFigures(ConfusionFigures):
    """What was found where each pixel has a class; ``confusion`` counts pixels.

    Example:
        >>> import torch
        >>> confusion = torch.tensor([[6, 2], [0, 4]])
        >>> found = SegmentationFigures(loss=0.1, classes=("a", "b"), num_samples=3, confusion=confusion)
        >>> [round(value, 3) for value in found.iou], round(found.mean_iou, 3)
        ([0.75, 0.667], 0.708)
        >>> found.describe("some/test")
        'mean IoU 0.7083 (over 2 of 2 classes), pixel accuracy 0.8333 on 3 samples of some/test'
    """

    @property
    def iou(self) -> list[float]:
        """Of each class, intersection over union; NaN for one that is neither there nor predicted."""
        counts = self.confusion.double()
        both = counts.diagonal()
        return (both / (counts.sum(0) + counts.sum(1) - both)).tolist()

    @property
    def mean_iou(self) -> float:
        """The mean of ``iou`` over the classes that have one, 0 to 1."""
        return mean_of_defined(self.iou)

    @property
    def headline(self) -> str:
        """The mean IoU, over how many classes, and the share of pixels that are right."""
        defined = sum(value == value for value in self.iou)
        return (
            f"mean IoU {self.mean_iou:.4f} (over {defined} of {counted(len(self.classes), 'class')}), "
            f"pixel accuracy {self.accuracy:.4f}"
        )

    def per_class_table(self) -> str:
        """Return a plain-text table: class, its share of the pixels, IoU, and the share that is right."""
        columns = {"of pixels": self.shares, "IoU": in_text(self.iou), "accuracy": in_text(self.recall)}
        return class_table(self.classes, columns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.accuracy,
            **super().to_dict(),
            "iou": by_class(self.classes, self.iou),
            "class_accuracy": by_class(self.classes, self.recall),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class StepFigures(ConfusionFigures):
    """What was found where each step of a sequence has a class; ``confusion`` counts steps.

    Example:
        >>> import torch
        >>> confusion = torch.tensor([[6, 2], [0, 4]])
        >>> found = StepFigures(loss=0.1, classes=("a", "b"), num_samples=3, confusion=confusion)
        >>> found.describe("some/test")
        'mean F1 0.8286 (over 2 of 2 classes), step accuracy 0.8333 on 3 samples of some/test'
    """

    @property
    def mean_f1(self) -> float:
        """The mean of ``f1`` over the classes that have one, 0 to 1."""
        return mean_of_defined(self.f1)

    @property
    def headline(self) -> str:
        """The mean F1, over how many classes, and the share of steps that are right."""
        defined = sum(value == value for value in self.f1)
        return (
            f"mean F1 {self.mean_f1:.4f} (over {defined} of {counted(len(self.classes), 'class')}), "
            f"step accuracy {self.accuracy:.4f}"
        )

    def per_class_table(self) -> str:
        """Return a plain-text table: class, its share of the steps, F1, and the share that is right."""
        columns = {"of steps": self.shares, "F1": in_text(self.f1), "accuracy": in_text(self.recall)}
        return class_table(self.classes, columns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        return {
            "mean_f1": self.mean_f1,
            "step_accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            **super().to_dict(),
            "f1": by_class(self.classes, self.f1),
            "class_accuracy": by_class(self.classes, self.recall),
            "confusion": self.confusion.tolist(),
        }
