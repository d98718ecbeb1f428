"""What one pass over sequences with labelled steps found: all of it follows from one matrix of counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nonlocalnn.tasks.figures import Figures, by_class
from nonlocalnn.tasks.mask_figures import SegmentationFigures


@dataclass(frozen=True, kw_only=True)
class StepFigures(SegmentationFigures):
    """What was found where each step of a sequence has a class.

    Args:
        confusion: Counts of steps, shape (K, K), int64; a row is a true class, a column a predicted one.

    Example:
        >>> import torch
        >>> confusion = torch.tensor([[6, 2], [0, 4]])
        >>> found = StepFigures(loss=0.1, classes=("a", "b"), num_samples=3, confusion=confusion)
        >>> found.describe("some/test")
        'mean F1 0.8286 (over 2 of 2 classes), step accuracy 0.8333 on 3 samples of some/test'
    """

    @property
    def f1(self) -> list[float]:
        """Of each class, the harmonic mean of precision and recall; NaN where it is nowhere."""
        counts = self.confusion.double()
        return (2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).tolist()

    @property
    def mean_f1(self) -> float:
        """The mean of ``f1`` over the classes that have one, 0 to 1."""
        defined = [value for value in self.f1 if value == value]
        return sum(defined) / len(defined)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the classes that are there of the share of their steps that is right, 0 to 1."""
        defined = [value for value in self.class_accuracy if value == value]
        return sum(defined) / len(defined)

    @property
    def headline(self) -> str:
        """The mean F1, over how many classes, and the share of steps that are right."""
        defined = sum(value == value for value in self.f1)
        return (
            f"mean F1 {self.mean_f1:.4f} (over {defined} of {len(self.classes)} classes), step accuracy "
            f"{self.pixel_accuracy:.4f}"
        )

    def per_class_table(self) -> str:
        """Return a plain-text table: class, its share of the steps, F1, and the share that is right."""
        width = max(5, *(len(name) for name in self.classes))
        shares = (self.confusion.sum(1) / self.confusion.sum()).tolist()
        lines = [f"{'class':<{width}}  of steps      F1  accuracy"]
        for name, share, score, right in zip(self.classes, shares, self.f1, self.class_accuracy, strict=True):
            # A class that is nowhere has neither.
            score_text, right_text = ("-" if value != value else f"{value:.4f}" for value in (score, right))
            lines.append(f"{name:<{width}}  {share:7.2%}  {score_text:>6}  {right_text:>8}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        return {
            "mean_f1": self.mean_f1,
            "step_accuracy": self.pixel_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            **Figures.to_dict(self),
            "f1": by_class(self.classes, self.f1),
            "class_accuracy": by_class(self.classes, self.class_accuracy),
            "confusion": self.confusion.tolist(),
        }
