"""How well a network does: one pass over a data set, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from nonlocalnn._device import Precision, eval_mode
from nonlocalnn._errors import check_positive, check_whole, one_line
from nonlocalnn._workers import Batches, leave_signals_to_parent
from nonlocalnn.data import LabelledSamples
from nonlocalnn.data.left_out import UNREADABLE
from nonlocalnn.tasks.figures import (
    Evaluation,
    MultiLabelEvaluation,
    average_precision,
    count_confusions,
)
from nonlocalnn.tasks.probabilities import class_probabilities

Watch = Callable[[Batches], Iterable[Any]]
T = TypeVar("T")

# The least logarithm of a probability that counts, as in PyTorch's binary cross-entropy: 0 costs 100 nats.
_LEAST_LOG = -100.0
_TOP = 5


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: LabelledSamples,
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    distributed: bool = False,
    watch: Watch | None = None,
) -> Evaluation | MultiLabelEvaluation:
    r"""Run ``model`` over ``dataset`` in eval mode and return what it found.

    The probabilities of a sample's views are averaged. The model's train or eval state is put back
    afterwards.

    Args:
        model: Takes (B, C, \*sides) and returns scores, shape (B, K).
        dataset: Labelled samples with K classes. Those with the target ``UNREADABLE`` are listed and in no
            figure.
        batch_size: Views a forward pass; None is the data set's own: 256, of videos 8.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        num_workers: Processes that read the data; 0 reads in this one.
        distributed: Share the samples among the ranks of the default process group; every rank returns the
            same total.
        watch: Takes the batches and gives them back one by one, to show how far it is.

    Returns:
        :class:`~nonlocalnn.tasks.figures.Evaluation`, or where samples may have several classes
        :class:`~nonlocalnn.tasks.figures.MultiLabelEvaluation`.

    Raises:
        TypeError: The data set is none of :class:`~nonlocalnn.data.LabelledSamples`.
        ValueError: A number is out of range; the data set is empty, takes views at random, or none of it can
            be read; or the model does not take its samples, or its scores do not match the classes.

    Memory: the views of ``batch_size`` / V samples, of one at least, twice, and up to three times more for
        each reading process.
    """
    if not isinstance(dataset, LabelledSamples):
        raise TypeError(
            f"dataset must be LabelledSamples; got {type(dataset).__name__}: derive its class from "
            "nonlocalnn.data.LabelledSamples, which asks for read and sample_id"
        )
    if dataset.num_views is None:
        raise ValueError("videos are evaluated by CentreClip or Views, not by clips at random places")
    batch_size = dataset.evaluation_batch if batch_size is None else batch_size
    check_positive(batch_size=batch_size)
    share = own_share(len(dataset), distributed)
    batches = batches_of(
        dataset, share, max(1, batch_size // dataset.num_views), num_workers=num_workers, watch=watch
    )
    tally = _ClassesTally if dataset.multi_label else _ClassTally
    readable, rows = [torch.empty(0, dtype=torch.bool)], [tally.none(len(dataset.classes))]
    with eval_mode(model):
        for samples, targets, *lengths in batches:
            readable.append(targets.view(len(targets), -1)[:, 0] != UNREADABLE)
            # A batch of sequences is as long as its own longest.
            shape = samples.shape[-len(dataset.sample_shape) :]
            views = samples.view(len(samples), -1, *shape)[readable[-1]]
            if len(views) == 0:
                continue
            with _naming_samples(dataset.sample_shape):
                probabilities = class_probabilities(
                    model,
                    views,
                    multi_label=dataset.multi_label,
                    everywhere=dataset.exceeds_training,
                    batch_size=batch_size,
                    device=device,
                    precision=precision,
                    lengths=[sizes[readable[-1]] for sizes in lengths],
                )
            if probabilities.shape[1] != len(dataset.classes):
                raise _wrong_scores(probabilities.shape, len(dataset.classes))
            rows.append(tally.rows(probabilities, targets[readable[-1]]))
    own = torch.tensor(share, dtype=torch.int64)[torch.cat(readable)], torch.cat(rows)
    covered, found = map(torch.cat, zip(*gathered(own, distributed), strict=True))
    # In the order of the samples, so that no figure depends on the ranks.
    found = found[covered.argsort()]
    left_out = sorted(set(range(len(dataset))).difference(covered.tolist()))
    if len(covered) == 0:
        raise ValueError(
            f"none of the {len(dataset)} {dataset.kind} can be read: nonlocalnn data check says why"
        )
    return tally.figures(
        found,
        classes=dataset.classes,
        num_samples=len(covered),
        unreadable=tuple(dataset.sample_id(index) for index in left_out),
        views=dataset.views,
    )


@contextmanager
def _naming_samples(sample_shape: Sequence[int]) -> Iterator[None]:
    """Say which samples a network does not take: a layer's own error speaks of its weights.

    Raises:
        ValueError: A layer refused them.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the model must take the samples of this data set, of shape {tuple(sample_shape)}, and refuses "
            f"them: {one_line(error)}; load a model for samples of {sample_shape[0]} channels and this size, "
            "or read the data as the model takes it"
        ) from error


def own_share(length: int, distributed: bool) -> range:
    """Return which of ``length`` samples this rank looks at: every so many, from its own number on.

    Raises:
        ValueError: There are none.
    """
    if length == 0:
        raise ValueError("cannot evaluate on an empty data set")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    return range(rank, length, world_size)


def batches_of(
    dataset: Dataset[Any],
    share: Sequence[int],
    batch_size: int = 1,
    *,
    num_workers: int = 0,
    watch: Watch | None = None,
) -> Iterable[Any]:
    """Return the batches of a part of a data set, made by its own ``collate`` where it has one.

    Args:
        dataset: The data set.
        share: Numbers of the samples that are taken.
        batch_size: Samples of a batch.
        num_workers: Processes that read; 0 reads in this one.
        watch: Takes the batches and gives them back one by one.

    Raises:
        ValueError: ``num_workers`` is no number of processes.
    """
    check_whole("num_workers", num_workers, least=0)
    loader = DataLoader(
        Subset(dataset, share),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=getattr(dataset, "collate", None),
        worker_init_fn=leave_signals_to_parent,
    )
    return Batches(loader) if watch is None else watch(Batches(loader))


def gathered(found: T, distributed: bool) -> list[T]:
    """Return what each rank found, on every rank; alone, what was found here."""
    if not distributed:
        return [found]
    everywhere = [found] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    return everywhere


def _wrong_scores(shape: Sequence[int], num_classes: int) -> ValueError:
    return ValueError(
        f"the model's output must be (B, {num_classes}), one score a class of this data set; "
        f"got {tuple(shape)}: load a model that was trained on these classes"
    )


class _ClassTally:
    """Of samples with one class each: a row of loss, true class, predicted class and whether in the top 5."""

    @staticmethod
    def none(num_classes: int) -> Tensor:
        return torch.empty(0, 4, dtype=torch.float64)

    @staticmethod
    def rows(probabilities: Tensor, targets: Tensor) -> Tensor:
        losses = F.nll_loss(probabilities.log().clamp(min=_LEAST_LOG), targets, reduction="none")
        best = probabilities.topk(min(_TOP, probabilities.shape[1])).indices
        return torch.stack([losses, targets, best[:, 0], (best == targets[:, None]).any(1)], 1)

    @staticmethod
    def figures(rows: Tensor, *, classes: tuple[str, ...], **covered: Any) -> Evaluation:
        losses, targets, predicted, in_top = rows.unbind(1)
        return Evaluation(
            loss=float(losses.mean()),
            classes=classes,
            confusion=count_confusions(targets.long(), predicted.long(), len(classes)),
            top5_accuracy=float(in_top.mean()),
            **covered,
        )


class _ClassesTally:
    """Of samples with any number of classes: a row of all probabilities and of the true classes."""

    @staticmethod
    def none(num_classes: int) -> Tensor:
        return torch.empty(0, 2 * num_classes, dtype=torch.float64)

    @staticmethod
    def rows(probabilities: Tensor, targets: Tensor) -> Tensor:
        return torch.cat([probabilities, targets.to(probabilities.dtype)], 1)

    @staticmethod
    def figures(rows: Tensor, *, classes: tuple[str, ...], **covered: Any) -> MultiLabelEvaluation:
        probabilities, shown = rows.tensor_split(2, 1)
        return MultiLabelEvaluation(
            loss=float(F.binary_cross_entropy(probabilities, shown)),
            classes=classes,
            average_precision=tuple(map(average_precision, probabilities.T, shown.T.bool())),
            **covered,
        )
