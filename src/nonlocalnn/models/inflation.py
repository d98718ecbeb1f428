"""Weights of an image network for a video network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def inflate_(model3d: nn.Module, state_dict2d: Mapping[str, Tensor]) -> list[str]:
    """Take the weights of an image network over into a video network of the same layer names, in place.

    A kernel of k frames gets the image kernel k times, divided by k, so that a clip of equal frames gives
    what the image gives (but for the first and last frames, where the kernel meets the padding). All else is
    copied. Meant for :class:`nonlocalnn.models.ResidualNetwork` and the state dict of a ResNet-50 or
    ResNet-101 of torchvision or timm.

    A last layer with another number of classes is left out. Nothing is changed where an error is raised.

    Args:
        model3d: The video network.
        state_dict2d: The image network's, with 4-dimensional kernels; ``module.`` before every name is
            ignored.

    Returns:
        The parameters and statistics of ``model3d`` that kept their own values, such as those of non-local
        blocks and of the last layer.

    Raises:
        ValueError: The state dict is of another network: the message names a weight that has no place, or
            whose shape does not fit, or which is missing.

    Source:
        Carreira, Zisserman: Quo Vadis, Action Recognition?, CVPR 2017, section 3.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> image = create_model("resnet50")
        >>> video = create_model("nl1_c2d_r50_8x8")
        >>> kept = inflate_(video, image.state_dict())
        >>> [name for name in kept if not name.startswith("layer3.4.nl.")]
        ['fc.weight', 'fc.bias']
    """
    given = {name.removeprefix("module."): value for name, value in state_dict2d.items()}
    own = model3d.state_dict()
    filled: dict[str, Tensor] = {}
    for name, value in given.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in own:
            raise ValueError(f"the image network has {name!r}, which the video network lacks: not its twin")
        shape = tuple(own[name].shape)
        if name in ("fc.weight", "fc.bias") and shape[0] != len(value):
            continue
        if len(shape) == 5 and value.dim() == 4 and (*shape[:2], *shape[3:]) == tuple(value.shape):
            filled[name] = (value / shape[2]).unsqueeze(2).expand(shape)
        elif shape == tuple(value.shape):
            filled[name] = value
        else:
            raise ValueError(f"{name!r} has shape {tuple(value.shape)}, which does not inflate to {shape}")
    kept = [name for name in own if name not in filled and not name.endswith("num_batches_tracked")]
    missing = [name for name in kept if ".nl." not in name and not name.startswith("fc.")]
    if missing:
        raise ValueError(f"the image network lacks {missing[0]!r} and {len(missing) - 1} more: not its twin")
    for name, value in filled.items():
        own[name].copy_(value)
    return kept


@torch.no_grad()
def start_with_middle_frames_(model3d: nn.Module) -> None:
    """Let each kernel over time begin with its middle frame alone, in place.

    That frame is as large as an image kernel is drawn, so that a video network begins as the same one over
    single frames does, and learns from training what to mix (docs/results/cue.md).

    Args:
        model3d: The video network, just made; its kernels were drawn for their number of outputs.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> stem = create_model("nl2_c2d_tiny", inflation="3x1x1").conv1
        >>> stem.weight.abs().sum((0, 1, 3, 4)).gt(0).tolist()
        [False, False, True, False, False]
    """
    for layer in model3d.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1:
            frames = layer.kernel_size[0]
            middle = layer.weight[:, :, frames // 2] * frames**0.5
            layer.weight.zero_()[:, :, frames // 2] = middle
