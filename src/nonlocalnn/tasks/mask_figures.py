"""What one pass over images with masks found: all of it follows from one matrix of counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nonlocalnn.tasks.figures import Figures, by_class


@dataclass(frozen=True, kw_only=True)
class SegmentationFigures(Figures):
    """What was found where each pixel has a class; all of it follows from one matrix over the whole set.

    Args:
        confusion: Counts of pixels, shape (K, K), int64; a row is a true class, a column a predicted one.

    Example:
        >>> import torch
        >>> confusion = torch.tensor([[6, 2], [0, 4]])
        >>> found = SegmentationFigures(loss=0.1, classes=("a", "b"), num_samples=3, confusion=confusion)
        >>> [round(value, 3) for value in found.iou], round(found.mean_iou, 3)
        ([0.75, 0.667], 0.708)
        >>> found.describe("some/test")
        'mean IoU 0.7083 (over 2 of 2 classes), pixel accuracy 0.8333 on 3 samples of some/test'
    """

    confusion: Tensor

    @property
    def iou(self) -> list[float]:
        """Of each class, intersection over union; NaN for one that is neither there nor predicted."""
        counts = self.confusion.double()
        both = counts.diagonal()
        return (both / (counts.sum(0) + counts.sum(1) - both)).tolist()

    @property
    def mean_iou(self) -> float:
        """The mean of ``iou`` over the classes that have one, 0 to 1."""
        defined = [value for value in self.iou if value == value]
        return sum(defined) / len(defined)

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels that are right, 0 to 1."""
        return int(self.confusion.diagonal().sum()) / int(self.confusion.sum())

    @property
    def class_accuracy(self) -> list[float]:
        """Of each class, the share of its pixels that are right; NaN for one that is not there."""
        counts = self.confusion.double()
        return (counts.diagonal() / counts.sum(1)).tolist()

    @property
    def headline(self) -> str:
        """The mean IoU, over how many classes, and the share of pixels that are right."""
        defined = sum(value == value for value in self.iou)
        return (
            f"mean IoU {self.mean_iou:.4f} (over {defined} of {len(self.classes)} classes), pixel accuracy "
            f"{self.pixel_accuracy:.4f}"
        )

    def per_class_table(self) -> str:
        """Return a plain-text table: class, its share of the pixels, IoU, and the share that is right."""
        width = max(5, *(len(name) for name in self.classes))
        shares = (self.confusion.sum(1) / self.confusion.sum()).tolist()
        lines = [f"{'class':<{width}}  of pixels     IoU  accuracy"]
        for name, share, iou, right in zip(self.classes, shares, self.iou, self.class_accuracy, strict=True):
            # A class that is nowhere has neither.
            iou_text, right_text = ("-" if value != value else f"{value:.4f}" for value in (iou, right))
            lines.append(f"{name:<{width}}  {share:8.2%}  {iou_text:>6}  {right_text:>8}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            **super().to_dict(),
            "iou": by_class(self.classes, self.iou),
            "class_accuracy": by_class(self.classes, self.class_accuracy),
            "confusion": self.confusion.tolist(),
        }
