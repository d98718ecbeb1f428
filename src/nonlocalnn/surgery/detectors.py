"""Detectors of torchvision pad the images of a batch; blocks in their backbones are to know where."""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from nonlocalnn.functional.masks import real_positions
from nonlocalnn.models import DetectionNetwork

# torchvision's, known by name so that it need not be installed.
_TRANSFORM = "GeneralizedRCNNTransform"


@dataclass(frozen=True, eq=False)
class _Padded:
    """A batch that a transform has padded, and the sizes of its images.

    References are weak, so that memory which is used again is no longer this batch.
    """

    batch: weakref.ref[Tensor]
    storage: StorageWeakRef | None
    shape: torch.Size
    sizes: list[tuple[int, int]]

    def is_gone(self) -> bool:
        """Return whether nobody can have this batch any more."""
        return self.batch() is None and (self.storage is None or self.storage.expired())

    def holds(self, x: Tensor) -> bool:
        """Return whether a tensor is this batch, or a view of all of it, or the same in another type."""
        if x.shape != self.shape:
            return False
        batch, storage = self.batch(), _storage_of(x)
        # Activation checkpoints detach what they hand on, perhaps in another thread: same memory, new tensor.
        if batch is x or (storage is not None and self.storage is not None and storage == self.storage):
            return True
        # Who shards a backbone may narrow what it is called with, which is new memory.
        return batch is not None and batch.dtype != x.dtype and torch.equal(batch.to(x), x)


_padded: list[_Padded] = []


class _Entered(threading.local):
    def __init__(self) -> None:
        self.contexts: list[tuple[nn.Module, AbstractContextManager[None]]] = []


_entered = _Entered()


def _note(transform: nn.Module, inputs: Any, output: Any) -> None:
    """Take the sizes that the transform gave: it returns an image list, and targets."""
    images = output[0]
    for padded in list(_padded):
        if padded.is_gone():
            # Another thread may have done so.
            with suppress(ValueError):
                _padded.remove(padded)
    batch = images.tensors
    _padded.append(_Padded(weakref.ref(batch), _storage_of(batch), batch.shape, list(images.image_sizes)))


def _enter(backbone: nn.Module, inputs: Any) -> None:
    """Let the backbone's blocks see them, where it is given that batch: regions are of other samples."""
    sizes = _sizes_of(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else None
    if sizes is not None:
        context = real_positions(sizes, inputs[0].shape[-2:])
        context.__enter__()
        _entered.contexts.append((backbone, context))


def _leave(backbone: nn.Module, inputs: Any, output: Any) -> None:
    """End that, after an error too."""
    while any(module is backbone for module, _ in _entered.contexts):
        _entered.contexts.pop()[1].__exit__(None, None, None)


def _sizes_of(x: Tensor) -> list[tuple[int, int]] | None:
    # The last first: a batch that is padded into the same memory takes the place of the one before.
    return next((padded.sizes for padded in reversed(list(_padded)) if padded.holds(x)), None)


def _storage_of(x: Tensor) -> StorageWeakRef | None:
    try:
        return StorageWeakRef(x.untyped_storage())
    except NotImplementedError:  # inside torch.func's transforms
        return None


def follow_padding_(model: nn.Module) -> list[str]:
    """Let blocks in the backbones of detectors weigh real positions only, in place.

    Such are modules with a child ``transform`` of torchvision's class `GeneralizedRCNNTransform` and a child
    ``backbone``: Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS and SSD. The sizes belong to the batch that
    the transform returns: a backbone that is called with another one, and what comes after the backbone and
    works on regions, do not see them. It is done once, however often this is called.

    Returns:
        Names of the backbones that follow it from now on.
    """
    found = []
    for name, module in list(model.named_modules()):
        transform, backbone = (module._modules.get(child) for child in ("transform", "backbone"))
        classes = {each.__name__ for each in type(transform).__mro__}
        if transform is None or backbone is None or _TRANSFORM not in classes:
            continue
        if isinstance(module, DetectionNetwork):  # does so by itself
            continue
        if _note in transform._forward_hooks.values():
            continue
        transform.register_forward_hook(_note)
        backbone.register_forward_pre_hook(_enter)
        backbone.register_forward_hook(_leave, always_call=True)
        found.append(f"{name}.backbone".lstrip("."))
    return found
