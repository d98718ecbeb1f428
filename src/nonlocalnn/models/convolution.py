"""Convolution of clips, by PyTorch's 2D convolution where the kernel lets that be."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn.functional.modes import autocast_dtype
from nonlocalnn.functional.products import has_fast_products, linear


class ClipConvolution(nn.Conv3d):
    """3D convolution that goes over frames, or over time, by 2D convolutions when that is faster.

    A kernel of one frame, (1, k, k), sees each frame as an image, and one of one position, (k, 1, 1), sees
    the clip as an image of time and places. For clips in ``channels_last_3d`` both views are free, and
    PyTorch's 2D convolutions are faster than its 3D ones on the CPU; all other clips and kernels go through
    the 3D one. Parameters and results are those of ``nn.Conv3d``, results up to rounding.

    Example:
        >>> layer = ClipConvolution(4, 6, (1, 3, 3), padding=(0, 1, 1))
        >>> clip = torch.randn(2, 4, 5, 8, 8).to(memory_format=torch.channels_last_3d)
        >>> bool(torch.allclose(layer(clip), layer(clip.contiguous()), atol=1e-5))
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved clip, in the memory format of ``x``."""
        assert not isinstance(self.padding, str)  # a network's kernels are padded by numbers
        return convolve_clip(x, self.weight, self.bias, self.stride, self.padding)


@torch.fx.wrap
def convolve_clip(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """Return ``F.conv3d(x, weight, bias, stride, padding)``."""
    over_time, *over_space = weight.shape[2:]
    is_channels_last = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    if not is_channels_last or x.is_contiguous():
        return F.conv3d(x, weight, bias, stride, padding)
    batch, channels, _, height, width = x.shape
    # One thread of PyTorch convolves so by the products that are slow on these processors. What does not fit
    # is left to PyTorch, which says so.
    fits = weight.shape[1:] == (channels, 1, 1, 1) and (bias is None or bias.shape == weight.shape[:1])
    is_pointwise = fits and stride == (1, 1, 1) and padding == (0, 0, 0) and autocast_dtype("cpu") is None
    if is_pointwise and has_fast_products(x, weight, *([] if bias is None else [bias])):
        positions = x.movedim(1, -1)
        y = linear(positions.flatten(0, 3), weight.flatten(1), bias)
        return y.unflatten(0, positions.shape[:4]).movedim(-1, 1)
    if over_time == 1 and padding[0] == 0:
        frames = x[:, :, :: stride[0]].transpose(1, 2)
        images = frames.reshape(-1, channels, height, width)
        y = F.conv2d(images, weight[:, :, 0], bias, stride[1:], padding[1:])
        return y.unflatten(0, (batch, frames.shape[1])).transpose(1, 2)
    if over_space == [1, 1] and stride[1:] == (1, 1) and padding[1:] == (0, 0):
        y = F.conv2d(x.flatten(3), weight[..., 0], bias, (stride[0], 1), (padding[0], 0))
        return y.unflatten(3, (height, width))
    return F.conv3d(x, weight, bias, stride, padding)
