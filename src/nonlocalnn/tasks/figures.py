"""What one pass over a data set found: figures, how many samples they are of, and by which views."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import counted

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
        samples = "sample" if covered == "1" else "samples"
        return f"{self.headline} on {covered} {samples} of {source}{views}"

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
class ConfusionFigures(Figures):
    """Figures that follow from one matrix of counts over the whole set.

    Args:
        confusion: Counts, shape (K, K), int64; a row is a true class, a column a predicted one.
    """

    confusion: Tensor

    @property
    def accuracy(self) -> float:
        """The share of what is counted that is right, 0 to 1."""
        return int(self.confusion.diagonal().sum()) / int(self.confusion.sum())

    @property
    def recall(self) -> list[float]:
        """For each class, the share of what is of it that was found; NaN for a class that is not there."""
        counts = self.confusion.double()
        return (counts.diagonal() / counts.sum(1)).tolist()

    @property
    def f1(self) -> list[float]:
        """For each class 2 TP / (2 TP + FP + FN); NaN where it is neither there nor predicted."""
        counts = self.confusion.double()
        return (2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).tolist()

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that are there: each class counts alike."""
        return mean_of_defined(self.recall)

    @property
    def shares(self) -> list[str]:
        """How much of what is counted is of each class, in words, such as "12.50%"."""
        return [f"{share:.2%}" for share in (self.confusion.sum(1) / self.confusion.sum()).tolist()]


@dataclass(frozen=True, kw_only=True)
class Evaluation(ConfusionFigures):
    """What was found where each sample has one class.

    Args:
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

    top5_accuracy: float = 1.0

    @property
    def precision(self) -> list[float]:
        """For each class, the share of its predictions that were right; NaN where it was never predicted."""
        counts = self.confusion.to(torch.float64)
        return (counts.diagonal() / counts.sum(0)).tolist()

    @property
    def macro_f1(self) -> float:
        """The mean ``f1`` of the classes that occur or were predicted."""
        return mean_of_defined(self.f1)

    @property
    def headline(self) -> str:
        """The accuracy; of more than five classes the top-5 accuracy too."""
        top = f" (top-5 {self.top5_accuracy:.4f})" if len(self.classes) > _TOP else ""
        return f"accuracy {self.accuracy:.4f}{top}"

    def per_class_table(self) -> str:
        """Return a plain-text table: class, samples, recall, precision."""
        samples = map(str, self.confusion.sum(1).tolist())
        columns = {"samples": samples, "recall": in_text(self.recall), "precision": in_text(self.precision)}
        return class_table(self.classes, columns)

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
        return mean_of_defined(self.average_precision)

    @property
    def headline(self) -> str:
        """The mean average precision, and over how many classes."""
        covered = f"{len(self._defined)} of {counted(len(self.classes), 'class')}"
        return f"mean average precision {self.mean_average_precision:.4f} (over {covered})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined one is None."""
        return {
            "mean_average_precision": self.mean_average_precision if self._defined else None,
            "num_undefined": self.num_undefined,
            **super().to_dict(),
            "average_precision": by_class(self.classes, self.average_precision),
        }


def mean_of_defined(values: Sequence[float]) -> float:
    """Return the mean of those that are numbers; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def in_text(values: Iterable[float], form: str = ".4f") -> list[str]:
    """Return numbers as a table shows them: "-" for NaN."""
    return ["-" if math.isnan(value) else format(value, form) for value in values]


def class_table(classes: Sequence[str], columns: Mapping[str, Iterable[str]]) -> str:
    """Return a plain-text table of a row a class, its columns aligned to the right below their titles.

    Example:
        >>> print(class_table(["cat", "elephant"], {"objects": ["12", "3"]}))
        class     objects
        cat            12
        elephant        3
    """
    texts = {"class": list(classes)} | {title: list(column) for title, column in columns.items()}
    widths = [max(map(len, (title, *column))) for title, column in texts.items()]
    rows = [tuple(texts), *zip(*texts.values(), strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


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
