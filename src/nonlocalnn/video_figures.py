"""What an evaluation on videos found: figures, and of how many videos and by which views they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.evaluate import Evaluation, by_class, count_confusions

# The least logarithm of a probability that counts, as in PyTorch's binary cross-entropy: 0 costs 100 nats.
_LEAST_LOG = -100.0


@dataclass(frozen=True)
class TopEvaluation(Evaluation):
    """What was found where each video shows one class.

    Args:
        loss: Mean of -log of the averaged probability of the true class, in nats.
        confusion: See :class:`~nonlocalnn.evaluate.Evaluation`.
        classes: The K class names.
        top5_accuracy: The share of videos whose true class is among the five most probable, 0 to 1.
    """

    top5_accuracy: float

    @property
    def headline(self) -> str:
        """The figures to name first."""
        return f"accuracy {self.accuracy:.4f} (top-5 {self.top5_accuracy:.4f})"

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values; an undefined recall or precision is None."""
        figures = super().to_dict()
        # Videos that could not be read stand beside the figures, see VideoEvaluation.
        del figures["unreadable"]
        return {"accuracy": figures.pop("accuracy"), "top5_accuracy": self.top5_accuracy, **figures}


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """What was found where a video may show several classes, or none.

    Args:
        loss: Mean binary cross-entropy of the averaged probabilities, over videos and classes, in nats.
        average_precision: That of each class, 0 to 1; NaN for a class that no video shows.
        classes: The K class names.
    """

    loss: float
    average_precision: tuple[float, ...]
    classes: tuple[str, ...]

    @property
    def _defined(self) -> list[float]:
        return [value for value in self.average_precision if value == value]

    @property
    def num_undefined(self) -> int:
        """The number of classes that no video shows; the mean leaves them out."""
        return len(self.classes) - len(self._defined)

    @property
    def mean_average_precision(self) -> float:
        """The mean over the classes that some video shows, 0 to 1; NaN where there is none."""
        return sum(self._defined) / len(self._defined) if self._defined else float("nan")

    @property
    def headline(self) -> str:
        """The figure to name first."""
        covered = f"{len(self._defined)} of {len(self.classes)} classes"
        return f"mean average precision {self.mean_average_precision:.4f} (over {covered})"

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values; an undefined one is None."""
        return {
            "mean_average_precision": self.mean_average_precision if self._defined else None,
            "num_undefined": self.num_undefined,
            "loss": self.loss,
            "average_precision": by_class(self.classes, self.average_precision),
            "classes": list(self.classes),
        }


@dataclass(frozen=True)
class VideoEvaluation:
    """What one pass over labelled videos found, by which views, and of how many of the videos.

    Args:
        views: "1 clip", or such as "30 views (10 clips x 3 crops)".
        num_videos: How many videos are listed.
        unreadable: Paths of those that could not be read, which no figure covers.
        figures: The figures.

    Example:
        >>> figures = MultiLabelEvaluation(loss=0.1, average_precision=(0.5, 1.0), classes=("run", "walk"))
        >>> found = VideoEvaluation("1 clip", num_videos=1200, unreadable=("a.mp4",), figures=figures)
        >>> found.describe("a/test")
        'mean average precision 0.7500 (over 2 of 2 classes) on 1,199 of 1,200 videos of a/test, 1 clip'
    """

    views: str
    num_videos: int
    unreadable: tuple[str, ...]
    figures: TopEvaluation | MultiLabelEvaluation

    @property
    def num_covered(self) -> int:
        """The number of videos that the figures are of."""
        return self.num_videos - len(self.unreadable)

    def describe(self, source: str) -> str:
        """Return a line that names the figures, the videos they cover and the views.

        Args:
            source: Where the videos come from, such as "kinetics/validation".
        """
        covered = f"{self.num_covered:,} of {self.num_videos:,} videos"
        return f"{self.figures.headline} on {covered} of {source}, {self.views}"

    def to_dict(self) -> dict[str, object]:
        """Return everything as JSON-ready values."""
        return {
            "views": self.views,
            "num_videos": self.num_videos,
            "num_covered": self.num_covered,
            "unreadable": list(self.unreadable),
            **self.figures.to_dict(),
        }


def top_figures(probabilities: Tensor, targets: Tensor, classes: Sequence[str]) -> TopEvaluation:
    """Return the figures of videos that show one class each.

    Args:
        probabilities: (N, K).
        targets: Index of the class that each shows, (N,).
        classes: The K class names.

    Example:
        >>> found = top_figures(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]), ("a", "b"))
        >>> found.headline
        'accuracy 0.5000 (top-5 1.0000)'
    """
    logs = probabilities.double().log().clamp(min=_LEAST_LOG)
    best = probabilities.topk(min(5, len(classes))).indices
    return TopEvaluation(
        loss=float(F.nll_loss(logs, targets)),
        confusion=count_confusions(targets, best[:, 0], len(classes)),
        classes=tuple(classes),
        top5_accuracy=int((best == targets[:, None]).sum()) / len(targets),
    )


def multi_label_figures(probabilities: Tensor, shown: Tensor, classes: Sequence[str]) -> MultiLabelEvaluation:
    """Return the figures of videos that show several classes each, or none.

    Args:
        probabilities: (N, K).
        shown: Whether a video shows a class, bool (N, K).
        classes: The K class names.

    Example:
        >>> shown = torch.tensor([[True, False], [False, False]])
        >>> found = multi_label_figures(torch.tensor([[0.6, 0.1], [0.7, 0.4]]), shown, ("a", "b"))
        >>> found.average_precision, found.num_undefined
        ((0.5, nan), 1)
    """
    return MultiLabelEvaluation(
        loss=float(F.binary_cross_entropy(probabilities.double(), shown.double())),
        average_precision=tuple(map(average_precision, probabilities.T, shown.T)),
        classes=tuple(classes),
    )


def average_precision(probabilities: Tensor, shown: Tensor) -> float:
    """Return the average precision of one class: the mean of the precisions at which each video is found.

    Videos of equal probability are found together.

    Args:
        probabilities: One a video, (N,).
        shown: Whether the video shows the class, bool (N,).

    Returns:
        0 to 1; NaN where no video shows the class.

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
