"""U-Nets: a class for each voxel of a volume or step of a sequence, a block where maps are smallest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, check_whole
from nonlocalnn.blocks import BLOCKS
from nonlocalnn.functional import Instantiation
from nonlocalnn.models.bottleneck import rectified
from nonlocalnn.models.padding import normalised, without_padding
from nonlocalnn.models.start import start_from_scratch

Context = Literal["non_local"] | None
# Steps of a sequence that a convolution sees.
_KERNEL = 5


class UNet(nn.Module):
    """What U-Nets over volumes and over sequences have in common.

    Each level has two convolutions with batch normalisation; the next one works at half of each side, by a
    stride, and at twice the channels. On the way up maps are enlarged to the size of the level's own and
    joined to it, so that any size is taken. The deepest level sees the whole of what the network is given
    through a non-local block.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Channels of the first level; None is 24 for volumes and 32 for sequences.
        depth: How often sides are halved, 8 times at most; of sequences 5, whose batches are padded to
            multiples of 32.
        context: "non_local" for the block, or None.
        instantiation: The pairwise function of the block.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: Scale the logits of the two Gaussian forms; the others have none.
        zero_init: Start as the identity; else as :func:`.start_from_scratch` says.

    Raises:
        ValueError: A setting is unknown.
    """

    num_sides: ClassVar[int]
    own_width: ClassVar[int]
    most_depth: ClassVar[int]
    # How maps are enlarged on the way up.
    enlarging: ClassVar[dict[str, Any]]

    @staticmethod
    def level(in_channels: int, channels: int, *, stride: int = 1) -> nn.Module:
        """Return two convolutions with normalisation; the first halves the sides where the stride is 2."""
        raise NotImplementedError

    def __init__(
        self,
        *,
        num_classes: int = 2,
        in_channels: int = 1,
        width: int | None = None,
        depth: int = 4,
        context: Context = "non_local",
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: Literal["after", "before"] | None = None,
        use_scale: bool = True,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        width = self.own_width if width is None else width
        check_choice("context", context, ("non_local", None))
        check_whole("num_classes", num_classes, most=2**16)
        check_whole("in_channels", in_channels, most=2**16)
        check_whole("width", width, most=2**12)
        check_whole("depth", depth, most=self.most_depth)
        channels = [width * 2**level for level in range(depth + 1)]
        self.first = self.level(in_channels, width)
        self.down = nn.ModuleList(self.level(*pair, stride=2) for pair in pairwise(channels))
        self.nl = None
        if context == "non_local":
            self.nl = BLOCKS[self.num_sides - 1](
                channels[-1],
                instantiation=instantiation,
                sub_sample=sub_sample,
                # The block's own default is that of clips, which pools in space alone.
                pool_size=None if sub_sample is None else (2,) * self.num_sides,
                use_scale=use_scale and instantiation in ("gaussian", "embedded_gaussian"),
                zero_init=zero_init,
            )
        self.up = nn.ModuleList(
            self.level(below + own, own) for own, below in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.scores = (nn.Conv1d if self.num_sides == 1 else nn.Conv3d)(width, num_classes, 1)
        if not zero_init:
            start_from_scratch(self)

    def forward(self, x: Tensor) -> Tensor:
        r"""Return the scores of each voxel or step, (B, num_classes, \*sides).

        Raises:
            ValueError: ``x`` has another rank, or is a volume too small to be halved so often.
        """
        x = self.first(_checked(x, self.num_sides, len(self.down)))
        levels = [x]
        for level in self.down:
            x = level(x)
            levels.append(x)
        x = levels.pop()
        if self.nl is not None:
            x = self.nl(x)
        for level in self.up:
            own = levels.pop()
            larger = F.interpolate(x, size=own.shape[2:], **self.enlarging)
            x = level(torch.cat([own, larger], 1))
        return self.scores(x)


class UNet3d(UNet):
    r"""U-Net over volumes, whose deepest level sees the whole of what it is given through a non-local block.

    Convolutions are 3x3x3, and maps are enlarged linearly. See :class:`UNet` for the settings; a depth of 4
    makes N = D H W / 4096 positions of the deepest map.

    Differs from nnU-Net and its kin in this: norms are those of batches and not of instances. A window of air
    alone has next to no variance of its own, and divided by that its edges would look like a body.

    Shape:
        - Input: (B, in_channels, D, H, W), any size.
        - Output: scores (B, num_classes, D, H, W).

    Memory: the block's is linear in the positions. At full resolution a map takes 4 x width bytes a voxel.

    Source:
        Cicek et al.: 3D U-Net, MICCAI 2016, for the network; Wang, Girshick, Gupta, He: Non-local Neural
        Networks, CVPR 2018, for the block.

    Example:
        >>> network = UNet3d(num_classes=3, width=4, depth=2)
        >>> network(torch.randn(1, 1, 9, 12, 10)).shape
        torch.Size([1, 3, 9, 12, 10])
    """

    num_sides = 3
    own_width = 24
    most_depth = 8
    enlarging: ClassVar[dict[str, Any]] = {"mode": "trilinear", "align_corners": False}

    @staticmethod
    def level(in_channels: int, channels: int, *, stride: int = 1) -> nn.Module:
        """See :meth:`UNet.level`."""
        return nn.Sequential(
            nn.Conv3d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
        )


class UNet1d(UNet):
    r"""U-Net over sequences, whose deepest level sees the whole of one through a non-local block.

    Convolutions are over 5 steps, and maps are enlarged by repeating each value. See :class:`UNet` for the
    settings.

    Nothing of a batch's padding is seen, where :func:`nonlocalnn.real_positions` says what is real.

    Shape:
        - Input: (B, in_channels, N), any length.
        - Output: scores (B, num_classes, N).

    Memory: the block's is linear in its N / 2^depth positions.

    Source:
        Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, for the network; Wang, Girshick, Gupta, He: Non-local
        Neural Networks, CVPR 2018, for the block.

    Example:
        >>> network = UNet1d(num_classes=3, in_channels=2, width=4, depth=2)
        >>> network(torch.randn(2, 2, 37)).shape
        torch.Size([2, 3, 37])
    """

    num_sides = 1
    own_width = 32
    most_depth = 5
    # Each value twice, of an odd length the last one once: alone and in a batch that is padded alike.
    enlarging: ClassVar[dict[str, Any]] = {"mode": "nearest"}

    @staticmethod
    def level(in_channels: int, channels: int, *, stride: int = 1) -> nn.Module:
        """See :meth:`UNet.level`."""
        return _Level(in_channels, channels, stride=stride)


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
        x = rectified(normalised(self.bn1, self.conv1(without_padding(x))), self.conv1, self.bn1)
        return rectified(normalised(self.bn2, self.conv2(without_padding(x))), self.conv2, self.bn2)


@fx.wrap
def _checked(x: Tensor, num_sides: int, depth: int) -> Tensor:
    """Return ``x`` when it has the network's rank, and the deepest map of a volume more than one position."""
    if x.dim() != num_sides + 2:
        raise ValueError(
            f"the network takes (B, C, {'N' if num_sides == 1 else 'D, H, W'}); got shape {tuple(x.shape)}"
        )
    if num_sides == 3 and max(x.shape[2:]) <= 2**depth:
        raise ValueError(
            f"a volume must have more than {2**depth} voxels along an axis for this network, which halves "
            f"sides {depth} times; got {' x '.join(map(str, x.shape[2:]))}: make it larger, or the depth less"
        )
    return x
