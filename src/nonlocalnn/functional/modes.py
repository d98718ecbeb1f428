"""What PyTorch does around a call: autocast, and what needs operations that it knows itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context without autocast, on devices that have none too: "meta" is one."""
    if autocast_dtype(device_type) is None:
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the type in which autocast computes products on a device, or None where it is off."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def is_transformed() -> bool:
    """Return whether this call is seen by torch.func, forward-mode derivatives or ``torch.jit.trace``.

    They know PyTorch's own operations, and our operators' and functions' backward passes do not serve them.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def is_shared_out(part: Tensor) -> bool:
    """Return whether a tensor is a DTensor, which knows on its processes PyTorch's operators, not ours."""
    # By what it has: its class takes half a second to import.
    return hasattr(part, "device_mesh")
