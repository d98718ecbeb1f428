"""Detectors of torchvision pad the images of a batch; blocks in their backbones are to know where."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

from nonlocalnn.functional.masks import real_positions

# torchvision's, known by name so that it need not be installed.
_TRANSFORM = "GeneralizedRCNNTransform"


class _Padding:
    """Carries the sizes of a batch's images from a detector's transform to its backbone."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] | None = None
        self._canvas: tuple[int, ...] = ()
        self._context = ExitStack()

    def note(self, transform: nn.Module, inputs: Any, output: Any) -> None:
        """Take the sizes that the transform gave: it returns an image list, and targets."""
        images = output[0]
        self._sizes, self._canvas = list(images.image_sizes), tuple(images.tensors.shape[-2:])

    def enter(self, backbone: nn.Module, inputs: Any) -> None:
        """Let the backbone's blocks see them, once: regions are of other samples."""
        if self._sizes is not None:
            self._context.enter_context(real_positions(self._sizes, self._canvas))
            self._sizes = None

    def leave(self, backbone: nn.Module, inputs: Any, output: Any) -> None:
        """End that, after an error too."""
        self._context.close()


def follow_padding_(model: nn.Module) -> list[str]:
    """Let blocks in the backbones of detectors weigh real positions only, in place.

    Such are modules with a child ``transform`` of torchvision's class `GeneralizedRCNNTransform` and a child
    ``backbone``: Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS and SSD. What comes after the backbone
    works on regions and does not see the sizes. It is done once, however often this is called.

    Returns:
        Names of the backbones that follow it from now on.
    """
    found = []
    for name, module in list(model.named_modules()):
        transform, backbone = (module._modules.get(child) for child in ("transform", "backbone"))
        classes = {each.__name__ for each in type(transform).__mro__}
        if transform is None or backbone is None or _TRANSFORM not in classes:
            continue
        hooks = transform._forward_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), _Padding) for hook in hooks):
            continue
        padding = _Padding()
        transform.register_forward_hook(padding.note)
        backbone.register_forward_pre_hook(padding.enter)
        backbone.register_forward_hook(padding.leave, always_call=True)
        found.append(f"{name}.backbone".lstrip("."))
    return found
