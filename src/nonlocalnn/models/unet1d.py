"""A U-Net over sequences: it gives each step a class, with a non-local block where its map is shortest."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, check_whole
from nonlocalnn.blocks import NonLocal1d, start_alike
from nonlocalnn.functional import Instantiation
from nonlocalnn.models.padding import normalised, without_padding

Context = Literal["non_local"] | None
# Steps that a convolution sees.
_KERNEL = 5


class UNet1d(nn.Module):
    r"""U-Net over sequences, whose deepest level sees the whole of one through a non-local block.

    Each level has two convolutions over 5 steps with batch normalisation; the next one works at half of the
    length, by a stride, and at twice the channels. On the way up each value is repeated to the length of the
    level's own map and joined to it, so that any length is taken.

    Nothing of a batch's padding is seen, where :func:`nonlocalnn.real_positions` says what is real.

    Shape:
        - Input: (B, in_channels, N), any length.
        - Output: scores (B, num_classes, N).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Channels of the first level.
        depth: How often the length is halved, 5 at most: batches are padded to multiples of 32.
        context: "non_local" for the block, or None.
        instantiation: The pairwise function of the block.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: Scale the logits of the two Gaussian forms; the others have none.
        zero_init: The block starts as the identity; else as :func:`nonlocalnn.blocks.start_alike` says.

    Raises:
        ValueError: A setting is unknown.

    Memory: the block's is linear in its N / 2^depth positions.

    Source:
        Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, for the network; Wang, Girshick, Gupta, He: Non-local
        Neural Networks, CVPR 2018, for the block.

    Example:
        >>> network = UNet1d(num_classes=3, in_channels=2, width=4, depth=2)
        >>> network(torch.randn(2, 2, 37)).shape
        torch.Size([2, 3, 37])
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        in_channels: int = 1,
        width: int = 32,
        depth: int = 4,
        context: Context = "non_local",
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: Literal["after", "before"] | None = None,
        use_scale: bool = True,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        check_choice("context", context, ("non_local", None))
        check_whole("num_classes", num_classes, most=2**16)
        check_whole("in_channels", in_channels, most=2**16)
        check_whole("width", width, most=2**12)
        check_whole("depth", depth, most=5)
        channels = [width * 2**level for level in range(depth + 1)]
        self.first = _Level(in_channels, width)
        self.down = nn.ModuleList(_Level(before, after, stride=2) for before, after in pairwise(channels))
        self.nl = None
        if context == "non_local":
            self.nl = NonLocal1d(
                channels[-1],
                instantiation=instantiation,
                sub_sample=sub_sample,
                use_scale=use_scale and instantiation in ("gaussian", "embedded_gaussian"),
                zero_init=zero_init,
            )
        self.up = nn.ModuleList(
            _Level(below + own, own) for own, below in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.scores = nn.Conv1d(width, num_classes, 1)
        if not zero_init:
            start_alike(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each step, (B, num_classes, N).

        Raises:
            ValueError: ``x`` has another rank.
        """
        x = self.first(_checked(x))
        levels = [x]
        for level in self.down:
            x = level(x)
            levels.append(x)
        x = levels.pop()
        if self.nl is not None:
            x = self.nl(x)
        for level in self.up:
            own = levels.pop()
            # Each value twice, of an odd length the last one once: alone and in a batch that is padded alike.
            longer = F.interpolate(x, size=own.shape[2:], mode="nearest")
            x = level(torch.cat([own, longer], 1))
        return self.scores(x)


class _Level(nn.Module):
    """Two convolutions with normalisation; the first halves the length where the stride is 2."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        padding = _KERNEL // 2
        self.conv1 = nn.Conv1d(in_channels, channels, _KERNEL, stride=stride, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, _KERNEL, padding=padding, bias=False)
        self.bn2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(normalised(self.bn1, self.conv1(without_padding(x))))
        return F.relu(normalised(self.bn2, self.conv2(without_padding(x))))


@fx.wrap
def _checked(x: Tensor) -> Tensor:
    """Return ``x`` when it has the network's rank."""
    if x.dim() != 3:
        raise ValueError(f"the network takes (B, C, N); got shape {tuple(x.shape)}")
    return x
