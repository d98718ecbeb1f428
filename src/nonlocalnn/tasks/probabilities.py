"""Class probabilities of samples, averaged over the views of each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn._errors import check_positive
from nonlocalnn.functional import real_positions
from nonlocalnn.models import ResidualNetwork


def real_part(samples: Tensor, lengths: Sequence[Tensor]) -> AbstractContextManager[None]:
    r"""Tell networks, while the context lasts, which part of each sample of a batch is real.

    Args:
        samples: (B, C, \*sides), padded where there are lengths.
        lengths: Nothing, or one thing: the real sizes, (B, sides).
    """
    return real_positions(lengths[0], samples.shape[2:]) if lengths else nullcontext()


@torch.no_grad()
def class_probabilities(
    model: nn.Module,
    views: Tensor,
    *,
    multi_label: bool = False,
    everywhere: bool = False,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    lengths: Sequence[Tensor] = (),
) -> Tensor:
    r"""Return the class probabilities of samples, the mean over the views of each.

    Scores become probabilities first and are averaged then: a view that is sure weighs no more than another.

    Args:
        model: In eval mode; takes (B, C, \*sides) and returns scores, (B, K).
        views: V views of each of B samples, (B, V, C, \*sides).
        multi_label: Whether a sample may have several classes, or none: sigmoid instead of softmax.
        everywhere: Average over the places of a view too, where the model is a
            :class:`~nonlocalnn.models.ResidualNetwork`: views larger than the crops of its training are then
            looked at everywhere.
        batch_size: Views a forward pass.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        lengths: Of samples that are padded the real sizes, (B, sides), as the only thing; see
            :func:`real_part`.

    Returns:
        float64 (B, K), on the CPU.

    Raises:
        ValueError: ``views`` has another rank, ``batch_size`` is below 1, or the output is no (B, K).

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, section 4, "Inference".

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> class_probabilities(model, torch.rand(2, 3, 1, 3, 4)).shape
        torch.Size([2, 5])
    """
    check_positive(batch_size=batch_size)
    if not 4 <= views.dim() <= 6:
        raise ValueError(f"views must be (B, V, C, *sides), of 1 to 3 sides; got shape {tuple(views.shape)}")
    found = []
    # Of all views of a sample the same part is real.
    own = [sizes.repeat_interleave(views.shape[1], 0).split(batch_size) for sizes in lengths]
    for number, part in enumerate(views.flatten(0, 1).split(batch_size)):
        with autocast_for(precision, device), real_part(part, [sizes[number] for sizes in own]):
            _, probabilities = scores_and_probabilities(
                model, part.to(device), multi_label=multi_label, everywhere=everywhere
            )
        found.append(probabilities)
    return torch.cat(found).unflatten(0, views.shape[:2]).mean(1)


def check_finite(answer: Tensor) -> None:
    """Check that a network's answer holds numbers alone.

    Raises:
        ValueError: It holds NaN or infinity.
    """
    if not bool(answer.isfinite().all()):
        raise ValueError(
            "the model's answer is not finite (NaN or infinity): its weights are damaged, or its values grew "
            "beyond the precision"
        )


def scores_and_probabilities(
    model: nn.Module, x: Tensor, *, multi_label: bool = False, everywhere: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Return class scores and class probabilities of one view each, from one forward pass.

    Args:
        model: In eval mode; takes (B, C, \*sides) and returns scores, (B, K).
        x: What it takes, where the model is.
        multi_label: See :func:`class_probabilities`.
        everywhere: See :func:`class_probabilities`.

    Returns:
        Scores (B, K), which a gradient may be taken of, and probabilities, float64 (B, K), on the CPU.

    Raises:
        ValueError: The output is no (B, K).

    Example:
        >>> scores, probabilities = scores_and_probabilities(nn.Linear(3, 2), torch.rand(4, 3))
        >>> scores.shape, probabilities.shape, probabilities.requires_grad
        (torch.Size([4, 2]), torch.Size([4, 2]), False)
    """
    if everywhere and isinstance(model, ResidualNetwork):
        maps = model.features(x)
        probabilities = model.probabilities_of(maps, multi_label=multi_label)
        return model.scores_of(maps), probabilities.detach().cpu().double()
    scores: Tensor = model(x)
    if scores.dim() != 2 or len(scores) != len(x):
        raise ValueError(f"the model's output must be (B, K), one score a class; got {tuple(scores.shape)}")
    # In double precision a probability near 1 still tells by how much it is less.
    exact = scores.detach().cpu().double()
    return scores, exact.sigmoid() if multi_label else exact.softmax(1)
