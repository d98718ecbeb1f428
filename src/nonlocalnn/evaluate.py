"""How well a network does: one pass over a data set, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from nonlocalnn._device import Precision, autocast_for, eval_mode, resolve_device
from nonlocalnn._readers import Batches, leave_signals_to_parent
from nonlocalnn.data.left_out import UNREADABLE

if TYPE_CHECKING:
    from nonlocalnn.data import LabelledSamples

# Other names for what lies in _device.py, for code that imports them from here.
__all__ = ["Evaluation", "autocast_for", "evaluate", "resolve_device"]


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a labelled data set found.

    Args:
        loss: Mean cross-entropy, in nats.
        confusion: Counts, shape (K, K), int64; a row is a true class, a column a predicted one.
        classes: The K class names.
        unreadable: Names of the samples that could not be read and are in no figure.

    Example:
        >>> found = Evaluation(loss=0.1, confusion=torch.tensor([[3, 1], [0, 4]]), classes=("a", "b"))
        >>> found.accuracy, found.num_samples
        (0.875, 8)
        >>> print(found.per_class_table())
        class  samples  recall  precision
        a            4  0.7500     1.0000
        b            4  1.0000     0.8000
    """

    loss: float
    confusion: Tensor
    classes: tuple[str, ...]
    unreadable: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def num_samples(self) -> int:
        """The number of samples seen."""
        return int(self.confusion.sum())

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

    def per_class_table(self) -> str:
        """Return a plain-text table: class, samples, recall, precision."""
        width = max(5, *(len(name) for name in self.classes))
        lines = [f"{'class':<{width}}  samples  recall  precision"]
        samples = self.confusion.sum(1).tolist()
        rows = zip(self.classes, samples, self.recall, self.precision, strict=True)
        for name, count, recall, precision in rows:
            lines.append(f"{name:<{width}}  {count:7d}  {recall:6.4f}  {precision:9.4f}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values; an undefined recall or precision is None."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "num_samples": self.num_samples,
            "unreadable": list(self.unreadable),
            "recall": by_class(self.classes, self.recall),
            "precision": by_class(self.classes, self.precision),
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


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


def wrong_scores(shape: Sequence[int], num_classes: int) -> ValueError:
    """Return the error for a model whose output has another shape than one score a class."""
    return ValueError(
        f"the model's output must be (B, {num_classes}), one score a class of this data set; "
        f"got {tuple(shape)}: load a model that was trained on these classes"
    )


def own_share(length: int, distributed: bool) -> range:
    """Return which of ``length`` samples this rank looks at: every so many, from its own number on."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    return range(rank, length, world_size)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: LabelledSamples,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    distributed: bool = False,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Evaluation:
    """Run ``model`` over ``dataset`` in eval mode and return what it found.

    The model's train or eval state is put back afterwards.

    Args:
        model: Takes (B, *sample_shape) and returns scores, shape (B, K).
        dataset: Labelled samples with K classes. Those with the target ``UNREADABLE`` are in no figure.
        batch_size: Samples a forward pass.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        num_workers: Processes that read the data; 0 reads in this one.
        distributed: Share the samples among the ranks of the default process group; every rank returns the
            same total.
        prepare: Turns a batch of the data set into what the model takes; None where that is the same.

    Raises:
        ValueError: The data set is empty, none of it can be read, or the model's scores do not match its
        classes.
    """
    if len(dataset) == 0:
        raise ValueError("cannot evaluate on an empty data set")
    share = Subset(dataset, own_share(len(dataset), distributed))
    loader = DataLoader(
        share, batch_size=batch_size, num_workers=num_workers, worker_init_fn=leave_signals_to_parent
    )
    num_classes = len(dataset.classes)
    # float64 on the CPU: the sum must not depend on how many ranks share it beyond rounding.
    loss_sum = torch.zeros((), dtype=torch.float64)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    # One for each sample that any rank could not read.
    unreadable = torch.zeros(len(dataset), dtype=torch.int64)
    places = torch.tensor(share.indices).split(batch_size)
    with eval_mode(model):
        for (samples, targets), indices in zip(Batches(loader), places, strict=True):
            unreadable[indices[targets == UNREADABLE]] = 1
            samples, targets = samples[targets != UNREADABLE], targets[targets != UNREADABLE]
            if len(targets) == 0:
                continue
            with autocast_for(precision, device):
                scores = model((samples if prepare is None else prepare(samples)).to(device))
            if scores.shape != (len(targets), num_classes):
                raise wrong_scores(scores.shape, num_classes)
            scores = scores.float().cpu()
            loss_sum += F.cross_entropy(scores, targets, reduction="sum")
            confusion += count_confusions(targets, scores.argmax(1), num_classes)
    if distributed:
        loss_sum, confusion = _sum_over_ranks(loss_sum, device), _sum_over_ranks(confusion, device)
        unreadable = _sum_over_ranks(unreadable, device)
    left_out = tuple(dataset.sample_id(index) for index in unreadable.nonzero().flatten().tolist())
    if len(left_out) == len(dataset):
        raise ValueError(f"none of the {len(dataset)} samples can be read: nonlocalnn data check says why")
    return Evaluation(
        float(loss_sum) / (len(dataset) - len(left_out)),
        confusion,
        tuple(dataset.classes),
        unreadable=left_out,
    )


def _sum_over_ranks(value: Tensor, device: torch.device | str) -> Tensor:
    # NCCL reduces tensors on the GPU only; gloo those on the CPU.
    carrier = value.to(device) if dist.get_backend() == "nccl" else value
    dist.all_reduce(carrier)
    return carrier.cpu()
