"""The classes of an image's pixels, and how well they fit a mask: one pass over a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._device import Precision, autocast_for, eval_mode
from nonlocalnn._errors import check_whole, one_line
from nonlocalnn.data.masks import IGNORED, MaskedImages
from nonlocalnn.models.dense import resized
from nonlocalnn.tasks.evaluation import Watch, batches_of, gathered, own_share
from nonlocalnn.tasks.figures import count_confusions
from nonlocalnn.tasks.mask_figures import SegmentationFigures
from nonlocalnn.tasks.probabilities import check_finite

# Classes whose scores are brought to the size of a mask at once: 16 of 2048 x 1024 pixels are 134 MB.
_CLASSES_AT_ONCE = 16


@torch.no_grad()
def evaluate_masks(
    model: nn.Module,
    dataset: MaskedImages,
    *,
    window: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    distributed: bool = False,
    watch: Watch | None = None,
) -> SegmentationFigures:
    """Run a network over images with masks, one whole image at a time, and compare at the masks' own sizes.

    Args:
        model: Takes (1, 3, H, W) and returns scores, (1, K, H, W). Its train or eval state is put back.
        dataset: Whole images, of K classes.
        window: Side of the windows by which an image is looked at, in pixels; None is the whole image.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        num_workers: Processes that read; 0 reads in this one.
        distributed: Share the images among the ranks of the default process group; every rank returns the
            same total.
        watch: Takes the images and gives them back one by one, to show how far it is.

    Raises:
        ValueError: The set is empty, the scores do not match the classes, or no pixel has a class.

    Memory: scores of one image, K x H x W numbers, and 16 of the size of its mask.
    """
    share = own_share(len(dataset), distributed)
    found = Counts(len(dataset.classes))
    with eval_mode(model):
        for images, masks in batches_of(dataset, share, num_workers=num_workers, watch=watch):
            mask = masks[0].to(device).long()
            scores = image_scores(model, images.to(device), window=window, precision=precision)
            found.check(scores.shape[1])
            found.losses.append(_summed_loss(scores, mask))
            found.add(labels_of(scores, mask.shape), mask)
    loss, confusion = found.over_ranks(f"pixel of the {len(dataset)} images", distributed)
    return SegmentationFigures(
        loss=loss, classes=dataset.classes, num_samples=len(dataset), confusion=confusion
    )


class Counts:
    """What is counted over a data set in which each place has a class or is ignored.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        # Of each batch the sum over the places that have a class, and their number.
        self.losses: list[tuple[float, int]] = []

    def check(self, number: int) -> None:
        """Check that a model gives as many scores as there are classes.

        Raises:
            ValueError: It gives another number.
        """
        if number != len(self.confusion):
            raise ValueError(
                f"the model's scores must be of the {len(self.confusion)} classes of this data set; got "
                f"{number}: load a model that was trained on these classes"
            )

    def add(self, labels: Tensor, ids: Tensor) -> Tensor:
        """Count which class was found for which, two tensors of one shape; return these counts, (K, K)."""
        known = ids != IGNORED
        counts = count_confusions(ids[known].long(), labels[known].long(), len(self.confusion)).cpu()
        self.confusion += counts
        return counts

    def over_ranks(self, places: str, distributed: bool) -> tuple[float, Tensor]:
        """Return the mean loss and the confusions of all ranks; ``places`` says of what, for the error.

        Raises:
            ValueError: No place has a class.
        """
        found = gathered((self.confusion, self.losses), distributed)
        confusion = torch.stack([each for each, _ in found]).sum(0)
        if not int(confusion.sum()):
            raise ValueError(f"no {places} has a class: all masks are {IGNORED}")
        losses = [pair for _, own in found for pair in own]
        # Summed exactly, so that it does not depend on the ranks.
        return math.fsum(loss for loss, _ in losses) / max(1, sum(number for _, number in losses)), confusion


def _summed_loss(scores: Tensor, mask: Tensor) -> tuple[float, int]:
    """Return the sum of the cross-entropy over the pixels that have a class, and their number."""
    if scores.shape[2:] != mask.shape:
        # At the size of the scores: those of 150 classes at a photograph's own would fill the memory.
        mask = F.interpolate(mask[None, None].float(), size=scores.shape[2:], mode="nearest")[0, 0].long()
    total = F.cross_entropy(scores.double(), mask[None], ignore_index=IGNORED, reduction="sum")
    return float(total), int((mask != IGNORED).sum())


def image_scores(
    model: nn.Module, image: Tensor, *, window: int | None = None, precision: Precision = "fp32"
) -> Tensor:
    """Return the scores of an image's pixels, (1, K, H, W), float32, from a network in eval mode.

    Args:
        model: The network.
        image: What it takes, (1, 3, H, W), where it is.
        window: Side of the windows that are looked at one by one, in pixels; scores are averaged where they
            overlap, a third of a side. None, or one that is larger than the image, looks at the whole.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: The network refuses the image, or does not return scores for each pixel.

    Example:
        >>> image_scores(nn.Conv2d(3, 2, 1), torch.rand(1, 3, 9, 14), window=6).shape
        torch.Size([1, 2, 9, 14])
    """
    # A volume comes as the part of it that is looked at, and is whole here.
    height, width = image.shape[-2:]
    if window is None or window >= max(height, width):
        return scores_of(model, image, precision)
    check_whole("window", window)
    total, counts = None, image.new_zeros(height, width)
    for top in window_starts(height, window):
        for left in window_starts(width, window):
            place = (..., slice(top, top + window), slice(left, left + window))
            scores = scores_of(model, image[place], precision)
            if total is None:
                total = scores.new_zeros(1, scores.shape[1], height, width)
            total[place] += scores
            counts[place] += 1
    assert total is not None, "an image has at least one window"
    return total / counts


def window_starts(side: int, window: int, *, overlap: float = 1 / 3) -> list[int]:
    """Return where the windows along a side begin: they cover it, and overlap by this share at least.

    Example:
        >>> window_starts(10, 6), window_starts(5, 6), window_starts(10, 4, overlap=1 / 2)
        ([0, 4], [0], [0, 2, 4, 6])
    """
    if side <= window:
        return [0]
    number = math.ceil((side - window) / max(1, int(window * (1 - overlap)))) + 1
    return [round(place * (side - window) / (number - 1)) for place in range(number)]


def scores_of(model: nn.Module, image: Tensor, precision: Precision) -> Tensor:
    """Return the scores of each pixel of an image, or voxel of a volume, float32, from one forward pass.

    Raises:
        ValueError: The network refuses it, or does not return scores for each of them.
    """
    try:
        with autocast_for(precision, image.device):
            found = model(image)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the network refuses an input of shape {tuple(image.shape)}: {one_line(error)}"
        ) from error
    scores = found["out"] if isinstance(found, Mapping) else found
    if scores.dim() != image.dim() or scores.shape[2:] != image.shape[2:]:
        what, sides = "pixel" if image.dim() == 4 else "voxel", ", ".join(map(str, image.shape[2:]))
        raise ValueError(
            f"the network must return scores for each {what}, (1, K, {sides}); got {tuple(scores.shape)}"
        )
    return scores.float()


def shares_of(labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return which classes there are among some labels, the largest share of the pixels first.

    Example:
        >>> shares_of(torch.tensor([[2, 2, 0, 2]]), ["a", "b", "c"])
        [{'class': 'c', 'id': 2, 'share': 0.75}, {'class': 'a', 'id': 0, 'share': 0.25}]
    """
    counts = torch.bincount(labels.flatten(), minlength=len(classes))
    order = counts.argsort(descending=True, stable=True).tolist()
    return [
        {"class": classes[number], "id": number, "share": int(counts[number]) / labels.numel()}
        for number in order
        if counts[number]
    ]


def labels_of(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Return the class with the highest score of each pixel, int64 (H, W), at another size.

    Args:
        scores: (1, K, h, w).
        size: (H, W), to which scores are brought bilinearly.

    Raises:
        ValueError: A score is not finite.

    Example:
        >>> labels_of(torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]]), (2, 2)).tolist()
        [[1, 0], [1, 0]]
    """
    check_finite(scores)
    if tuple(scores.shape[2:]) == tuple(size):
        return scores[0].argmax(0)
    best: Tensor | None = None
    labels = torch.zeros(tuple(size), dtype=torch.int64, device=scores.device)
    # A few classes at a time: all of ADE20K's 150 at the size of a photograph are gigabytes.
    for start in range(0, scores.shape[1], _CLASSES_AT_ONCE):
        values, indices = resized(scores[:, start : start + _CLASSES_AT_ONCE], size)[0].max(0)
        if best is None:
            best, labels = values, indices
        else:
            better = values > best
            best, labels = torch.where(better, values, best), torch.where(better, indices + start, labels)
    return labels
