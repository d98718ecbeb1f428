"""Class probabilities of samples, averaged over the views of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn._errors import check_positive
from nonlocalnn.models import ResidualNetwork


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
    for part in views.flatten(0, 1).split(batch_size):
        with autocast_for(precision, device):
            if everywhere and isinstance(model, ResidualNetwork):
                found.append(model.probabilities(part.to(device), multi_label=multi_label).cpu().double())
                continue
            scores: Tensor = model(part.to(device))
        if scores.dim() != 2 or len(scores) != len(part):
            raise ValueError(
                f"the model's output must be (B, K), one score a class; got {tuple(scores.shape)}"
            )
        # In double precision a probability near 1 still tells by how much it is less.
        scores = scores.cpu().double()
        found.append(scores.sigmoid() if multi_label else scores.softmax(1))
    return torch.cat(found).unflatten(0, views.shape[:2]).mean(1)
