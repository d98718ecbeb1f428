"""Residual networks over sequences, images and video, with non-local blocks: C2D and I3D of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, check_whole
from nonlocalnn.blocks import BLOCKS, SubSample, nonlocal_blocks
from nonlocalnn.functional import Instantiation
from nonlocalnn.functional.geometry import Extent
from nonlocalnn.functional.layers import BatchNorm, is_traced
from nonlocalnn.functional.masks import real_mask
from nonlocalnn.models.bottleneck import (
    CONVOLUTIONS,
    EXPANSION,
    Bottleneck,
    FrozenNorm,
    along,
    halves,
    rectified,
)
from nonlocalnn.models.inflation import start_with_middle_frames_
from nonlocalnn.models.padding import mean_of_real, normalised, without_padding
from nonlocalnn.models.placement import STAGES, Placement, block_places, stage_lengths
from nonlocalnn.models.start import start_from_scratch

# torch.fx then records each as one node: whether anything is padded is known only when the graph runs.
torch.fx.wrap("mean_of_real")
torch.fx.wrap("without_padding")

Inflation = Literal["3x1x1", "3x3x3"] | None
ResidualNorm = Literal["batch", "frozen"]

_BATCH_NORMS: tuple[Callable[[int], BatchNorm], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVERAGES = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class ResidualNetwork(nn.Module):
    r"""Residual network with bottlenecks over sequences, images or video, and with non-local blocks.

    Of video it is the paper's C2D, which looks at frames one by one but for its pooling, or by ``inflation``
    I3D. Layers are called as in torchvision's and timm's networks, whose weights :func:`nonlocalnn.inflate_`
    takes over; a block is ``layer3.4.nl`` where it follows the bottleneck ``layer3.4``. The paper's res2 to
    res5 are ``layer1`` to ``layer4``. The spatial stride is in the 3x3 convolution, as in the released code.
    Clips and weights in ``channels_last_3d`` are faster on the CPU; so is a network after
    :func:`nonlocalnn.fuse_`.

    By default keys are pooled before phi and g and logits are scaled, as in the released code, and as the
    paper's count of FLOPs asks for. ``sub_sample="after"`` and ``use_scale=False`` are the paper's text.

    Shape:
        - Input: (B, in_channels, N), (B, in_channels, H, W) or (B, in_channels, T, H, W).
        - Output: scores (B, num_classes).

    Args:
        num_classes: Number of classes.
        num_sides: 1 for sequences, 2 for images, 3 for video and volumes.
        in_channels: Channels of the input.
        depth: 50, 101, or the number of bottlenecks of each of the four stages.
        width: Channels after the first convolution; the stages have 4, 8, 16 and 32 times as many.
        inflation: Video only. "3x1x1" makes the first convolution of every second bottleneck span three
            frames, "3x3x3" the second convolution of the same ones; both make the network's first one span
            five. None is C2D.
        halves_time_early: Video only. The first convolution and the first pooling have a stride of 2 over
            time, as for 32 frames at stride 2 and 128 at stride 1; False is for clips of few frames.
        pads_pool1: Pad the first pooling by 1 in space: 224 pixels are 56 positions after it, and without
            padding, as in the released code, 55.
        is_volume: Three sides that are alike, those of a volume, without an axis of time: kernels, strides
            and pools are the same along each.
        pool1_skips_frames: With ``halves_time_early``: the first pooling leaves every second frame out, as
            mmaction2's does, instead of taking the larger value of two frames.
        small_stem: For inputs of some dozens of pixels: the first convolution is 3 wide, and the first
            pooling is left out, so that the stages work at 1/2, 1/4, 1/8 and 1/16 of a side.
        stem_stride: Stride of the first convolution in space: 2, or 1 for inputs of few steps or pixels, of
            which each counts; the stages then work at twice the sides.
        blocks: How many non-local blocks, placed as in the paper: 0, 1, 5 or 10 at depth 50 or 101; or the
            places, as in ``{"layer2": [1, 3]}`` for the second and the fourth bottleneck of ``layer2``.
        instantiation: The pairwise function of the blocks.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: Scale the logits of the two Gaussian forms; the others have none.
        zero_init: Blocks start as the identity; else as :func:`.start_from_scratch` says, and
            kernels over time with their middle frame alone where there are blocks.
        zero_init_residual: So do bottlenecks, but for their shortcuts, as in the released code; for hundreds
            of thousands of steps, not for some hundreds.
        extent: Video only: which positions see each other.
        layer2_extent: Video only: the same for the blocks in ``layer2``, where it differs: 4 for long clips.
        norm: "batch", or "frozen" for batches too small for statistics: :class:`FrozenNorm` in the network
            and none in the blocks.
        dropout: Before the last layer.
        window: Side of the windows of :meth:`probabilities`, in positions; None is the whole map.
        groups: Groups of the 3x3 convolutions, over images only: 32 in ResNeXt's of torchvision.
        group_width: Channels of each group in the first stage: 8 in its 32x8d, 64 of a plain ResNet.

    Raises:
        ValueError: A setting is unknown or has no meaning here.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, table 1 and section 4.

    Example:
        >>> import torch
        >>> network = ResidualNetwork(num_sides=2, depth=(1, 1, 1, 1), width=8, blocks={"layer2": [0]})
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 400])
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        *,
        # More settings than a constructor should have: each is a column of the paper's ablations or part of
        # its recipe for long clips. Presets set them.
        num_classes: int = 400,
        num_sides: int = 3,
        in_channels: int = 3,
        depth: int | Sequence[int] = 50,
        width: int = 64,
        inflation: Inflation = None,
        halves_time_early: bool = False,
        pads_pool1: bool = True,
        pool1_skips_frames: bool = False,
        small_stem: bool = False,
        stem_stride: int = 2,
        blocks: int | Placement = 0,
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: SubSample = "before",
        use_scale: bool = True,
        zero_init: bool = True,
        zero_init_residual: bool = True,
        extent: Extent = "spacetime",
        layer2_extent: Extent | None = None,
        norm: ResidualNorm = "batch",
        dropout: float = 0.5,
        window: int | None = 7,
        groups: int = 1,
        group_width: int = 64,
        is_volume: bool = False,
    ) -> None:
        super().__init__()
        check_choice("inflation", inflation, ("3x1x1", "3x3x3", None))
        check_choice("norm", norm, ("batch", "frozen"))
        check_whole("num_classes", num_classes)
        check_whole("in_channels", in_channels)
        check_whole("width", width, most=2**20)
        check_choice("stem_stride", stem_stride, (1, 2))
        check_whole("groups", groups, most=2**10)
        check_whole("group_width", group_width, most=2**10)
        if num_sides != 2 and (groups, group_width) != (1, 64):
            raise ValueError("groups and group_width are settings of networks over images, num_sides=2")
        if window is not None:
            check_whole("window", window)
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1; got {repr(dropout)[:80]}")
        if num_sides not in (1, 2, 3):
            raise ValueError(
                f"num_sides must be 1 (sequences), 2 (images) or 3 (video); got {num_sides!r:.80}"
            )
        if num_sides != 3 and (inflation is not None or halves_time_early or layer2_extent is not None):
            raise ValueError(
                "inflation, halves_time_early and layer2_extent are settings of video networks, num_sides=3"
            )
        if is_volume and (num_sides != 3 or inflation is not None or halves_time_early):
            raise ValueError(
                "is_volume needs num_sides=3, and a volume has no time: leave inflation and "
                "halves_time_early out"
            )
        if small_stem and halves_time_early:
            raise ValueError("small_stem leaves out what halves_time_early is about: choose one")
        if pool1_skips_frames and not halves_time_early:
            raise ValueError(
                "pool1_skips_frames is about how halves_time_early pools: set both or leave it out"
            )
        lengths = stage_lengths(depth)
        places = block_places(blocks, depth, lengths)
        norm_class: Callable[[int], nn.Module] = FrozenNorm
        if norm == "batch":
            norm_class = _BATCH_NORMS[num_sides - 1]
        side = 3 if small_stem else 7
        # Of a volume what goes along the slices is what goes along rows and columns.
        stem = along(num_sides, side if is_volume else 1 if inflation is None else 5, side)
        self.num_sides = num_sides
        self.is_volume = is_volume
        self.halves_time_early = halves_time_early
        self.pads_pool1 = pads_pool1
        self.pool1_skips_frames = pool1_skips_frames
        self.window = window
        self.small_stem = small_stem
        self.conv1 = CONVOLUTIONS[num_sides - 1](
            in_channels,
            width,
            stem,
            stride=along(num_sides, stem_stride if is_volume else 2 if halves_time_early else 1, stem_stride),
            padding=halves(stem),
            bias=False,
        )
        self.bn1 = norm_class(width)
        pool = _POOLS[num_sides - 1]
        early = 2 if halves_time_early or is_volume else 1
        # The pools are layers and not functions, so that affinity/grids.py can trace them. They add no keys.
        self.pool1 = (
            None
            if small_stem
            else pool(
                along(num_sides, 3 if is_volume else 1 if pool1_skips_frames else early, 3),
                stride=along(num_sides, early, 2),
                padding=along(num_sides, int(is_volume and pads_pool1), 1 if pads_pool1 else 0),
            )
        )
        self.pool2 = pool((2, 1, 1)) if num_sides == 3 and not is_volume else None
        # Of a clip blocks pool in space alone, of a volume along all sides that see each other.
        pool_size = (2, 2, 2) if is_volume and sub_sample and extent == "spacetime" else None
        channels = width
        for stage, name in enumerate(STAGES):
            bottlenecks = []
            for place in range(lengths[stage]):
                spans = 3 if inflation is not None and _is_inflated(stage, place) else 1
                bottleneck = Bottleneck(
                    channels,
                    width * 2**stage,
                    num_sides=num_sides,
                    stride=2 if place == 0 and stage > 0 else 1,
                    first_frames=spans if inflation == "3x1x1" else 1,
                    frames=3 if is_volume else spans if inflation == "3x3x3" else 1,
                    strides_frames=is_volume,
                    norm=norm_class,
                    groups=groups,
                    group_width=group_width,
                )
                channels = width * 2**stage * EXPANSION
                if place in places[name]:
                    bottleneck.nl = BLOCKS[num_sides - 1](
                        channels,
                        instantiation=instantiation,
                        sub_sample=sub_sample,
                        pool_size=pool_size,
                        use_scale=use_scale and instantiation in ("gaussian", "embedded_gaussian"),
                        norm="batch" if norm == "batch" else None,
                        zero_init=zero_init,
                        extent=layer2_extent if name == "layer2" and layer2_extent is not None else extent,
                    )
                bottlenecks.append(bottleneck)
            setattr(self, name, nn.Sequential(*bottlenecks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self._reset_parameters(zero_init_residual)
        if not zero_init:
            start_from_scratch(self)
            # Without blocks these kernels are all that sees other frames, and must from the start.
            if inflation is not None and nonlocal_blocks(self):
                start_with_middle_frames_(self)

    def _reset_parameters(self, zero_init_residual: bool) -> None:
        """Draw the weights of the released code, whose last layer starts near zero."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                for layer in (module.conv1, module.conv2, module.conv3):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if zero_init_residual and isinstance(module.bn3, nn.modules.batchnorm._BatchNorm):
                    nn.init.zeros_(module.bn3.weight)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Tensor:
        r"""Return the map after the last stage, (B, 32 width, \*sides).

        Raises:
            ValueError: ``x`` has another rank, or too few frames to be pooled.
        """
        x = _check_input(x, self.num_sides, self._fewest_frames())
        x = rectified(normalised(self.bn1, self.conv1(without_padding(x))), self.conv1, self.bn1)
        if self.pool1 is not None:
            x = self.pool1(without_padding(x))
        x = self.layer1(x)
        if self.pool2 is not None:
            x = self.pool2(without_padding(x))
        return self.layer4(self.layer3(self.layer2(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, shape (B, num_classes)."""
        return self.scores_of(self.features(x))

    def scores_of(self, maps: Tensor) -> Tensor:
        """Return the scores that belong to what :meth:`features` gave, shape (B, num_classes)."""
        return self.fc(self.dropout(mean_of_real(maps)))

    def probabilities(self, x: Tensor, *, window: int | None = None, multi_label: bool = False) -> Tensor:
        r"""Return the mean over all places of the class probabilities there, shape (B, num_classes).

        The last map is averaged in windows, over all frames and ``window`` positions along each other side,
        as large as the whole map of a training crop; the last layer and the softmax are applied to each. An
        input of 256 pixels gives 2 x 2 windows of 7 x 7 positions, as the released code tests.

        Args:
            x: What :meth:`forward` takes, of any size.
            window: The side of a window, in positions; the map's own where that is smaller. None is the
                network's setting.
            multi_label: Whether an input may show several classes, or none: sigmoid instead of softmax.
        """
        return self.probabilities_of(self.features(x), window=window, multi_label=multi_label)

    def probabilities_of(
        self, maps: Tensor, *, window: int | None = None, multi_label: bool = False
    ) -> Tensor:
        """Return :meth:`probabilities` of what :meth:`features` gave: who wants scores too runs once.

        Raises:
            ValueError: A part of the maps is padding, which windows would take in.
        """
        if not is_traced(maps) and real_mask(maps) is not None:
            raise ValueError(
                "windows are of maps without padding: call the network itself, which averages over what is "
                "real, or leave real_positions"
            )
        window = self.window if window is None else window
        kernel = [side if window is None else min(window, side) for side in maps.shape[2:]]
        if self.num_sides == 3:
            kernel[0] = maps.shape[2]
        pooled = _AVERAGES[self.num_sides - 1](maps, kernel, stride=1).flatten(2).transpose(1, 2)
        scores = self.fc(self.dropout(pooled))
        return (scores.sigmoid() if multi_label else scores.softmax(2)).mean(1)

    def _fewest_frames(self) -> int:
        if not self.halves_time_early:
            return 1 if self.is_volume else 2
        return 5 if self.pool1_skips_frames else 7


@fx.wrap
def _check_input(x: Tensor, num_sides: int, num_frames: int) -> Tensor:
    """Return ``x`` when it has the network's rank, and a clip enough frames."""
    if x.dim() != num_sides + 2:
        sides = {1: "N", 2: "H, W", 3: "T, H, W"}[num_sides]
        raise ValueError(f"the network takes (B, C, {sides}); got shape {tuple(x.shape)}")
    if num_sides == 3 and x.shape[2] < num_frames:
        raise ValueError(f"a clip must have at least {num_frames} frames for this network; got {x.shape[2]}")
    return x


def _is_inflated(stage: int, place: int) -> bool:
    """Return whether a bottleneck of I3D spans frames: all of res2, every second one, the middle of res5."""
    return stage == 0 or place % 2 == (1 if stage == 3 else 0)
