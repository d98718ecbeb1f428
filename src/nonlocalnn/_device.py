"""Where a model runs, at which precision, and in which mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nonlocalnn._errors import check_choice

Precision = Literal["fp32", "bf16", "fp16"]
NARROW_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_for(precision: Precision, device: torch.device | str) -> AbstractContextManager[object]:
    """Return the context in which a forward pass runs at ``precision``.

    Args:
        precision: "fp32" (no autocast), "bf16" or "fp16".
        device: Where the pass runs.

    Raises:
        ValueError: ``precision`` is none of these.
    """
    check_choice("precision", precision, ("fp32", "bf16", "fp16"))
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=NARROW_DTYPES[precision])


def resolve_device(device: str) -> torch.device:
    """Return the device named: "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: The name is unknown, or names a CUDA device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {device!r:.80}") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use 'auto' or 'cpu'"
        )
    return resolved


def moved(batch: Any, device: torch.device | str) -> Any:
    """Return a batch on a device: a tensor, or lists, tuples and dictionaries of what is one.

    Example:
        >>> moved([torch.zeros(2), [{"boxes": torch.zeros(1, 4)}]], "cpu")[1][0]["boxes"].shape
        torch.Size([1, 4])
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    return [moved(each, device) for each in batch]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into its former mode at the end."""
    # One by one: norms that someone froze are in eval mode inside of a network in train mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
