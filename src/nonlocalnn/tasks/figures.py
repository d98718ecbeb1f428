"""What one pass over a data set found: figures, how many samples they are of, and by which views."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Top-5 accuracy says something where there are more classes than that.
_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Figures(ABC):
    """What all evaluations have.

    Args:
        loss: Mean over the samples, in nats.
        classes: The K class names.
        num_samples: How many samples the figures are of.
        unreadable: Names of the samples that could not be read and are in no figure.
        views: How each sample was looked at, such as "30 views (10 clips x 3 crops)"; None where a sample is
            its only view.
    """

    loss: float
    classes: tuple[str, ...]
    num_samples: int
    unreadable: tuple[str, ...] = ()
    views: str | None = None

    @property
    @abstractmethod
    def headline(self) -> str:
        """The figures to name first, such as "accuracy 0.9943"."""

    def describe(self, source: str) -> str:
        """Return a line that names the figures, the samples that they cover and the views.

        Args:
            source: Where the samples come from, such as "kinetics/validation".
        """
        covered = f"{self.num_samples:,}"
        if self.unreadable:
            covered += f" of {self.num_samples + len(self.unreadable):,}"
        views = "" if self.views is None else f", {self.views}"
        return f"{self.headline} on {covered} samples of {source}{views}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        views = {} if self.views is None else {"views": self.views}
        return {
            "loss": self.loss,
            "num_samples": self.num_samples,
            "unreadable": list(self.unreadable),
            "classes": list(self.classes),
            **views,
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation(Figures):
    """What was found where each sample has one class.

    Args:
        confusion: Counts, shape (K, K), int64; a row is a true class, a column a predicted one.
        top5_accuracy: The share of samples whose true class is among the five most probable, 0 to 1.

    Example:
        >>> confusion = torch.tensor([[3, 1], [0, 4]])
        >>> found = Evaluation(loss=0.1, classes=("a", "b"), num_samples=8, confusion=confusion)
        >>> found.accuracy, found.describe("some/test")
        (0.875, 'accuracy 0.8750 on 8 samples of some/test')
        >>> print(found.per_class_table())
        class  samples  recall  precision
        a            4  0.7500     1.0000
        b            4  1.0000     0.8000
    """

    confusion: Tensor
    top5_accuracy: float = 1.0

    @property
    def accuracy(self) -> float:
        """The share of samples whose highest score is the true class, 0 to 1."""
        return int(self.confusion.diagonal().sum()) / self.num_samples

    @property
    def recall(self) -> list[float]:
        """For each class, the share of its samples that were found; NaN for a class without samples."""
        counts = self.confusion.to(torch.float64)
        return (counts.diagonal() / counts.sum(1)).tolist()

    @property
    def precision(self) -> list[float]:
        """For each class, the share of its predictions that were right; NaN where it was never predicted."""
        counts = self.confusion.to(torch.float64)
        return (counts.diagonal() / counts.sum(0)).tolist()

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have samples: each class counts alike."""
        return _mean(self.recall)

    @property
    def macro_f1(self) -> float:
        """The mean over the classes of F1, 2 TP / (2 TP + FP + FN), of those that occur or were predicted."""
        counts = self.confusion.to(torch.float64)
        return _mean((2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).tolist())

    @property
    def headline(self) -> str:
        """The accuracy; of more than five classes the top-5 accuracy too."""
        top = f" (top-5 {self.top5_accuracy:.4f})" if len(self.classes) > _TOP else ""
        return f"accuracy {self.accuracy:.4f}{top}"

    def per_class_table(self) -> str:
        """Return a plain-text table: class, samples, recall, precision."""
        width = max(5, *(len(name) for name in self.classes))
        lines = [f"{'class':<{width}}  samples  recall  precision"]
        samples = self.confusion.sum(1).tolist()
        rows = zip(self.classes, samples, self.recall, self.precision, strict=True)
        for name, count, recall, precision in rows:
            # A class without samples has no recall, and one that is never predicted no precision.
            shown = ["-" if value != value else f"{value:.4f}" for value in (recall, precision)]
            lines.append(f"{name:<{width}}  {count:7d}  {shown[0]:>6}  {shown[1]:>9}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined recall or precision is None.

        The top-5 accuracy is there for more than five classes: of five it is always 1.
        """
        top = {"top5_accuracy": self.top5_accuracy} if len(self.classes) > _TOP else {}
        return {
            "accuracy": self.accuracy,
            **top,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            **super().to_dict(),
            "recall": by_class(self.classes, self.recall),
            "precision": by_class(self.classes, self.precision),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation(Figures):
    """What was found where a sample may have several classes, or none.

    The loss is binary cross-entropy, the mean over samples and classes.

    Args:
        average_precision: That of each class, 0 to 1; NaN for a class that no sample has.

    Example:
        >>> found = MultiLabelEvaluation(
        ...     loss=0.1, classes=("run", "walk"), num_samples=1199, unreadable=("a.mp4",), views="1 clip",
        ...     average_precision=(0.5, 1.0),
        ... )
        >>> found.describe("a/test")
        'mean average precision 0.7500 (over 2 of 2 classes) on 1,199 of 1,200 samples of a/test, 1 clip'
    """

    average_precision: tuple[float, ...]

    @property
    def _defined(self) -> list[float]:
        return [value for value in self.average_precision if value == value]

    @property
    def num_undefined(self) -> int:
        """The number of classes that no sample has; the mean leaves them out."""
        return len(self.classes) - len(self._defined)

    @property
    def mean_average_precision(self) -> float:
        """The mean over the classes that some sample has, 0 to 1; NaN where there is none."""
        return sum(self._defined) / len(self._defined) if self._defined else float("nan")

    @property
    def headline(self) -> str:
        """The mean average precision, and over how many classes."""
        covered = f"{len(self._defined)} of {len(self.classes)} classes"
        return f"mean average precision {self.mean_average_precision:.4f} (over {covered})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined one is None."""
        return {
            "mean_average_precision": self.mean_average_precision if self._defined else None,
            "num_undefined": self.num_undefined,
            **super().to_dict(),
            "average_precision": by_class(self.classes, self.average_precision),
        }


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined)


def by_class(classes: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    """Return the value of each class by its name, JSON-ready: None for NaN.

    Example:
        >>> by_class(["a", "b"], [0.5, float("nan")])
        {'a': 0.5, 'b': None}
    """
    return {name: None if value != value else value for name, value in zip(classes, values, strict=True)}


def count_confusions(targets: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return how often each class was taken for each other, (K, K), int64; a row is a true class.

    Args:
        targets: Indices of the true classes, (N,).
        predicted: Indices of the predicted ones, (N,).
        num_classes: K.

    Example:
        >>> count_confusions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    cells = targets * num_classes + predicted
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def average_precision(probabilities: Tensor, shown: Tensor) -> float:
    """Return the average precision of one class: the mean of the precisions at which each sample is found.

    Samples of equal probability are found together.

    Args:
        probabilities: One a sample, (N,).
        shown: Whether the sample has the class, bool (N,).

    Returns:
        0 to 1; NaN where no sample has the class.

    Example:
        >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, True]))
        0.8333333333333333
    """
    values, order = probabilities.sort(descending=True)
    found = shown[order].to(torch.float64).cumsum(0)
    # The last of each run of equal values, where all of the run has been found.
    ends = torch.cat([values.diff() != 0, torch.ones(1, dtype=torch.bool)]).nonzero().flatten()
    found = found[ends]
    gained = found.diff(prepend=found.new_zeros(1))
    return float((gained * found / (ends + 1)).sum() / found[-1])
