"""Batches of samples and their loss, as an examination takes them, and which of their positions are real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Batch = Sequence[Any]
Loss = Callable[[nn.Module, Batch], tuple[Tensor, Mapping[str, Tensor]]]


def real_by_sizes(batch: Batch) -> Tensor | None:
    r"""Return which positions of a batch's samples are real, by its third part, the sizes; None is all.

    Args:
        batch: Samples, (B, C, \*sides), targets, and where samples are padded their real sizes, (B, sides).

    Returns:
        bool (B, \*sides).

    Example:
        >>> real_by_sizes([torch.zeros(2, 3, 4), torch.zeros(2), torch.tensor([[4], [1]])]).tolist()
        [[True, True, True, True], [True, False, False, False]]
    """
    if len(batch) < 3:
        return None
    samples, sizes = batch[0], batch[2]
    mask = torch.ones(len(samples), *samples.shape[2:], dtype=torch.bool, device=samples.device)
    for axis, side in enumerate(samples.shape[2:]):
        places = torch.arange(side, device=samples.device).view(-1, *[1] * (samples.dim() - 3 - axis))
        mask &= places < sizes[:, axis].to(samples.device).view(-1, *[1] * (samples.dim() - 2))
    return mask


def checked_batch(given: Any) -> Batch:
    """Return a batch that begins with its samples."""
    if not isinstance(given, Sequence) or not len(given) or not isinstance(given[0], Tensor):
        what = type(given).__name__
        if isinstance(given, Sequence) and len(given):
            what += f" that begins with a {type(given[0]).__name__}"
        raise ValueError(
            f"each batch must be a list or a tuple whose first part is a tensor, the samples; got a {what}: "
            "(samples, targets), for example"
        )
    return given


def checked_loss(found: Any) -> tuple[Tensor, Mapping[str, Any]]:
    """Return what a loss gave, when it is one number and further ones by name."""
    if not (isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], Mapping)):
        what = f"a {type(found).__name__}"
        if isinstance(found, tuple | list):
            what += f" of {', '.join(type(each).__name__ for each in found) or 'nothing'}"
        raise ValueError(
            f"loss must return the mean loss and a dictionary of figures, which may be empty; got {what}: "
            "return loss, {}"
        )
    total, figures = found
    for name, value in {"the loss": total, **figures}.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(
                f"{name} of a batch must be one number; got a tensor of shape {tuple(value.shape)}: take its "
                "mean"
            )
    return torch.as_tensor(total), figures
