"""Networks that give each pixel a class: a residual body whose map stays large, and a head with context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, check_whole
from nonlocalnn.blocks import NonLocal2d
from nonlocalnn.functional import Instantiation
from nonlocalnn.models.bottleneck import EXPANSION, Bottleneck, rectified
from nonlocalnn.models.placement import STAGES
from nonlocalnn.models.resnet import ResidualNetwork
from nonlocalnn.models.start import start_from_scratch

Context = Literal["non_local"] | None
OutputStride = Literal[8, 16, 32]

# As OpenMMLab's segmentation networks have it: of the scores before the last layer, and of the second head.
_DROPOUT = 0.1


class SegmentationNetwork(nn.Module):
    r"""Residual network over images whose head gives each pixel scores, with a non-local block in the head.

    The body is :class:`~nonlocalnn.models.ResidualNetwork`'s over images, with its names, so that weights of
    ImageNet fit it. In its last stages strides become dilations, so that the map's sides stay at
    1 / ``output_stride`` of the image's. The head is the fully convolutional one of mmsegmentation's
    ``FCNHead`` and ``NLHead``: a 3x3 convolution, the block over all positions (half the channels inside,
    scaled, no sub-sampling), another 3x3 convolution, then both the body's map and this one through a third,
    and the scores. A second head on the stage before helps training, and is not there in eval mode.

    Differs from mmsegmentation in this: the body begins with one 7x7 convolution, as torchvision's, and not
    with three of 3x3; and W_z has a bias.

    Shape:
        - Input: (B, in_channels, H, W), any size.
        - Output: scores (B, num_classes, H, W). In train mode with a second head
          ``{"out": scores, "aux": scores}``, as torchvision's segmentation networks.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        depth: 50, 101, or the number of bottlenecks of each of the four stages.
        width: Channels after the first convolution; the stages have 4, 8, 16 and 32 times as many.
        output_stride: Pixels from one position of the last map to the next: 8, 16 or 32.
        channels: Width of the head.
        context: "non_local" for the block, or None.
        dilation: Of the head's convolutions; with 6 a head without a block sees far too.
        auxiliary: Whether there is the second head.
        small: For inputs of some hundreds of pixels, trained from scratch in minutes: the body ends with its
            third stage, at a stride of 8, and the head takes in the map of the second stage, at 4, in place
            of its own input. There is no second head.
        instantiation: The pairwise function of the block.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: Scale the logits of the two Gaussian forms; the others have none.
        zero_init: Start as the identity; else as :func:`.start_from_scratch` says.

    Raises:
        ValueError: A setting is unknown or has no meaning here.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, for the block; Long, Shelhamer,
        Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015.

    Example:
        >>> network = SegmentationNetwork(num_classes=5, depth=(1, 1, 1, 1), width=8, channels=16).eval()
        >>> network(torch.randn(2, 3, 40, 56)).shape
        torch.Size([2, 5, 40, 56])
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self,
        *,
        # As many settings as the published networks differ in; presets set them.
        num_classes: int = 19,
        in_channels: int = 3,
        depth: int | Sequence[int] = 50,
        width: int = 64,
        output_stride: OutputStride = 8,
        channels: int = 512,
        context: Context = "non_local",
        dilation: int = 1,
        auxiliary: bool = True,
        small: bool = False,
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: Literal["after", "before"] | None = None,
        use_scale: bool = True,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_choice("context", context, ("non_local", None))
        check_choice("output_stride", output_stride, (8, 16, 32))
        check_whole("num_classes", num_classes, most=2**16)
        check_whole("channels", channels, most=2**16)
        check_whole("dilation", dilation, most=2**10)
        if small and (auxiliary or output_stride != 8):
            raise ValueError(
                "small networks have a stride of 8 and no second head: set auxiliary=False and leave out "
                "output_stride"
            )
        body = ResidualNetwork(
            num_sides=2,
            num_classes=1,
            in_channels=in_channels,
            depth=depth,
            width=width,
            small_stem=small,
            zero_init_residual=not small,
        )
        self.small = small
        # The body's own names, one by one: a child called "body" would hide them from weights of ImageNet,
        # and its last layer, which is of no use here, would be a parameter without a gradient.
        self.conv1, self.bn1, self.pool1 = body.conv1, body.bn1, body.pool1
        self.layer1, self.layer2, self.layer3 = body.layer1, body.layer2, body.layer3
        self.layer4 = None if small else body.layer4
        if not small:
            _dilate_(body, output_stride)
        block = None
        if context == "non_local":
            block = NonLocal2d(
                channels,
                instantiation=instantiation,
                sub_sample=sub_sample,
                use_scale=use_scale and instantiation in ("gaussian", "embedded_gaussian"),
                zero_init=zero_init,
            )
        stages = [width * 2**stage * EXPANSION for stage in range(len(STAGES))]
        self.auxiliary = _Auxiliary(stages[2], channels // 2, num_classes) if auxiliary else None
        # Last, so that the last layer of all is the one whose width is the number of classes.
        self.head: _Head | _SmallHead
        if small:
            self.head = _SmallHead(stages[2], channels, stages[1], num_classes, block, dilation)
        else:
            self.head = _Head(stages[3], channels, num_classes, block, dilation)
        if not zero_init:
            start_from_scratch(self)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return scores, shape (B, num_classes, H, W); in train mode perhaps those of the second head too."""
        size = x.shape[2:]
        maps = rectified(self.bn1(self.conv1(x)), self.conv1, self.bn1)
        if self.pool1 is not None:
            maps = self.pool1(maps)
        low = self.layer2(self.layer1(maps))
        middle = self.layer3(low)
        if self.layer4 is None:
            return resized(self.head(middle, low), size)
        scores = resized(self.head(self.layer4(middle)), size)
        if self.auxiliary is None or not self.training:
            return scores
        return {"out": scores, "aux": resized(self.auxiliary(middle), size)}


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps (B, C, h, w) of another size, (B, C, H, W), bilinearly."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class _Head(nn.Module):
    """mmsegmentation's FCNHead, with NLHead's block where there is one."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, block: nn.Module | None, dilation: int
    ) -> None:
        super().__init__()
        self.conv1 = _unit(in_channels, channels, dilation)
        self.nl = block
        self.conv2 = _unit(channels, channels, dilation)
        self.fuse = _unit(in_channels + channels, channels)
        self.dropout = nn.Dropout(_DROPOUT)
        self.scores = _scores(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        if self.nl is not None:
            y = self.nl(y)
        return self.scores(self.dropout(self.fuse(torch.cat([x, self.conv2(y)], 1))))


class _SmallHead(nn.Module):
    """The same for small networks: what is fine comes from an earlier stage.

    A dilation above 1 is that of a second convolution too, which stands where the block would.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        low_channels: int,
        num_classes: int,
        block: nn.Module | None,
        dilation: int,
    ) -> None:
        super().__init__()
        self.conv1 = _unit(in_channels, channels, dilation)
        self.nl = block
        self.conv2 = _unit(channels, channels, dilation) if dilation > 1 else None
        self.low = nn.Conv2d(low_channels, channels // 2, 1)
        self.fuse = _unit(channels + channels // 2, channels)
        # As PyTorch draws it: scores that start near zero cost steps, and there are hundreds.
        self.scores = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        y = self.conv1(x)
        if self.nl is not None:
            y = self.nl(y)
        if self.conv2 is not None:
            y = self.conv2(y)
        return self.scores(self.fuse(torch.cat([resized(y, low.shape[2:]), self.low(low)], 1)))


class _Auxiliary(nn.Module):
    """The second head, on the map before the last stage; its loss reaches the body on a shorter way."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = _unit(in_channels, channels)
        self.dropout = nn.Dropout(_DROPOUT)
        self.scores = _scores(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.dropout(self.conv(x)))


def _unit(in_channels: int, channels: int, dilation: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalisation and ReLU, which keeps the sides."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def _scores(channels: int, num_classes: int) -> nn.Conv2d:
    """Return the last layer, whose scores start near zero: every class is as likely as any other."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None, "made with one"
    nn.init.zeros_(layer.bias)
    return layer


def _dilate_(body: ResidualNetwork, output_stride: int) -> None:
    """Turn strides of the last stages into dilations, so that the map stays 1 / ``output_stride`` of a side.

    The first bottleneck of a stage keeps the dilation of the stage before: its 3x3 convolution reads a map
    that was never thinned out. Weights are those of the network with strides.
    """
    dilation = 1
    for stage, stride in ((body.layer3, 16), (body.layer4, 32)):
        if stride <= output_stride:
            continue
        for place, bottleneck in enumerate(stage):
            assert isinstance(bottleneck, Bottleneck)
            if place == 0 and bottleneck.downsample is not None:
                shortcut = bottleneck.downsample[0]
                assert isinstance(shortcut, nn.Conv2d)
                shortcut.stride = (1, 1)
            own = dilation if place == 0 else 2 * dilation
            layer = bottleneck.conv2
            layer.stride, layer.dilation, layer.padding = (1, 1), (own, own), (own, own)
        dilation *= 2
