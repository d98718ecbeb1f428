"""A U-Net over volumes: it gives each voxel a class, with a non-local block where its map is smallest."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, check_whole
from nonlocalnn.blocks import NonLocal3d, start_alike
from nonlocalnn.functional import Instantiation

Context = Literal["non_local"] | None


class UNet3d(nn.Module):
    r"""U-Net over volumes, whose deepest level sees the whole of what it is given through a non-local block.

    Each level has two 3x3x3 convolutions with batch normalisation; the next one works at half of each
    side, by a stride, and at twice the channels. On the way up maps are enlarged linearly to the size of the
    level's own and joined to it, so that any size is taken.

    Differs from nnU-Net and its kin in this: norms are those of batches and not of instances. A window of air
    alone has next to no variance of its own, and divided by that its edges would look like a body.

    Shape:
        - Input: (B, in_channels, D, H, W), any size.
        - Output: scores (B, num_classes, D, H, W).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Channels of the first level.
        depth: How often sides are halved: 4 makes N = D H W / 4096 positions of the deepest map.
        context: "non_local" for the block, or None.
        instantiation: The pairwise function of the block.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: Scale the logits of the two Gaussian forms; the others have none.
        zero_init: The block starts as the identity; else as :func:`nonlocalnn.blocks.start_alike` says.

    Raises:
        ValueError: A setting is unknown.

    Memory: the block's is linear in the positions. At full resolution a map takes 4 x width bytes a voxel.

    Source:
        Cicek et al.: 3D U-Net, MICCAI 2016, for the network; Wang, Girshick, Gupta, He: Non-local Neural
        Networks, CVPR 2018, for the block.

    Example:
        >>> network = UNet3d(num_classes=3, width=4, depth=2)
        >>> network(torch.randn(1, 1, 9, 12, 10)).shape
        torch.Size([1, 3, 9, 12, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        in_channels: int = 1,
        width: int = 24,
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
        check_whole("depth", depth, most=8)
        channels = [width * 2**level for level in range(depth + 1)]
        self.first = _level(in_channels, width, stride=1)
        self.down = nn.ModuleList(_level(before, after, stride=2) for before, after in pairwise(channels))
        self.nl = None
        if context == "non_local":
            self.nl = NonLocal3d(
                channels[-1],
                instantiation=instantiation,
                sub_sample=sub_sample,
                # The block's own default is that of clips, which pools in space alone.
                pool_size=None if sub_sample is None else (2, 2, 2),
                use_scale=use_scale and instantiation in ("gaussian", "embedded_gaussian"),
                zero_init=zero_init,
            )
        self.up = nn.ModuleList(
            _level(below + own, own, stride=1)
            for own, below in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.scores = nn.Conv3d(width, num_classes, 1)
        if not zero_init:
            start_alike(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each voxel, (B, num_classes, D, H, W).

        Raises:
            ValueError: ``x`` has another rank, or is too small to be halved so often.
        """
        x = self.first(_checked(x, len(self.down)))
        levels = [x]
        for level in self.down:
            x = level(x)
            levels.append(x)
        x = levels.pop()
        if self.nl is not None:
            x = self.nl(x)
        for level in self.up:
            own = levels.pop()
            larger = F.interpolate(x, size=own.shape[2:], mode="trilinear", align_corners=False)
            x = level(torch.cat([own, larger], 1))
        return self.scores(x)


def _level(in_channels: int, channels: int, *, stride: int) -> nn.Sequential:
    """Return two convolutions with normalisation; the first halves the sides where the stride is 2."""
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm3d(channels),
        nn.ReLU(),
        nn.Conv3d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm3d(channels),
        nn.ReLU(),
    )


@fx.wrap
def _checked(x: Tensor, depth: int) -> Tensor:
    """Return ``x`` when it has the network's rank, and its deepest map more than one position."""
    if x.dim() != 5:
        raise ValueError(f"the network takes (B, C, D, H, W); got shape {tuple(x.shape)}")
    if max(x.shape[2:]) <= 2**depth:
        raise ValueError(
            f"a volume must have more than {2**depth} voxels along an axis for this network, which halves "
            f"sides {depth} times; got {' x '.join(map(str, x.shape[2:]))}"
        )
    return x
