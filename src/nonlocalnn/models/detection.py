"""Networks that find objects: torchvision's Faster, Mask and Keypoint R-CNN over our bodies and blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._errors import check_choice, check_whole, needs
from nonlocalnn.blocks import NonLocal2d, SubSample
from nonlocalnn.functional import Instantiation
from nonlocalnn.functional.masks import real_positions
from nonlocalnn.models.bottleneck import EXPANSION, FrozenNorm, rectified
from nonlocalnn.models.detection_inputs import check_images, check_targets
from nonlocalnn.models.keypoint_head import check_head_blocks, keypoint_parts
from nonlocalnn.models.padding import normalised, without_padding
from nonlocalnn.models.placement import STAGES, Placement
from nonlocalnn.models.resnet import ResidualNetwork
from nonlocalnn.models.start import start_from_scratch

# A box, its class and a score; with masks or keypoints where the network has such a head.
Found = dict[str, Tensor]
Target = Mapping[str, Tensor]

# Of ImageNet's photographs, from 0 to 1: the network takes pixels and normalises them by itself.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The longest side of the published 800 x 1333, as a part of the shortest.
_LONGEST = 1333 / 800
# Anchors of the small networks where images have a short side of so many pixels.
_SMALL_SIDE, _SMALL_ANCHORS = 96, ((12, 18), (26, 48))
_RATIOS = (0.5, 1.0, 2.0)
# What the small networks look at: some dozens of objects are many there.
_SMALL_LIMITS: dict[str, Any] = {
    "rpn_pre_nms_top_n_train": 300,
    "rpn_post_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_test": 60,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
}
_SMALL_WIDTH, _SMALL_HIDDEN = 64, 128
_SMALL_LEVELS = ("0", "1")


class DetectionNetwork(nn.Module):
    r"""Mask R-CNN over a feature pyramid, or Faster or Keypoint R-CNN, with non-local blocks.

    Proposals, regions, heads and losses are torchvision's. The body is
    :class:`~nonlocalnn.models.ResidualNetwork`'s over images; the block of the paper stands right before the
    last bottleneck of res4: without a norm, W_z at zero, keys sub-sampled before phi and g, logits scaled.
    State-dict keys are torchvision's, so that its published weights fit, and a block is
    ``backbone.body.layer3.4.nl``. In the keypoint head blocks follow every second of the eight convolutions,
    in small networks of four.

    Images of a batch are padded to one size. Blocks of the body weigh real positions only; other layers see
    zeros beside an image, as where the published weights were trained.

    Differs from torchvision's networks in this: ``num_classes`` does not count the background.

    Shape:
        - Input: a list of images, (3, h, w) each, any size, from 0 to 1; in train mode a list of targets
          too: ``boxes`` (n, 4) as x, y, x, y in pixels, ``labels`` (n,) from 1 on, and ``masks`` (n, h, w)
          or ``keypoints`` (n, K, 3) where the network has such a head.
        - Output: in train mode losses by name, each of shape (). In eval mode a dictionary for each image:
          ``boxes``, ``labels`` and ``scores``, the best first, and ``masks`` (n, 1, h, w), the probability
          of each pixel, or ``keypoints`` and ``keypoints_scores``.

    Args:
        num_classes: Number of classes of objects.
        depth: 50, 101, or the number of bottlenecks of each of the four stages.
        width: Channels after the first convolution; the stages have 4, 8, 16 and 32 times as many.
        groups: Of the body's 3x3 convolutions: 32 of a ResNeXt.
        group_width: See :class:`~nonlocalnn.models.ResidualNetwork`.
        blocks: Non-local blocks in the body: 0, 1, 5 or 10, or their places, as there. In small networks 0
            or 1: the block after the third stage.
        head_blocks: Non-local blocks in the keypoint head: 0, or 4, in small networks 2: one after every
            second convolution.
        masks: Whether a head finds the mask of each object.
        num_keypoints: How many points a head finds of each object; 0 is no such head.
        min_size: Short side to which images are brought, in pixels; of several training draws one for each
            image, by torch's global random numbers, and all else takes the last.
        max_size: Longest side that they may have then; None is 5/3 of ``min_size``.
        trainable_stages: How many of the body's five stages, the last first, are trained: 3 leaves the first
            convolution and res2 as they are.
        frozen_eps: Added to the variance in frozen norms: 0 for torchvision's weights COCO_V1.
        small: For images of some hundreds of pixels, trained from scratch in minutes: the body, the first
            convolution of the head and the block of ``nl_fcn_tiny``, whose weights fit, and a pyramid of two
            levels. Norms are not frozen.
        anchors: Of small networks, sides of the boxes that proposals begin with, in pixels of the image as
            it is looked at, two for each of the two levels; None is from 1/8 to 1/2 of ``min_size``.
        instantiation: The pairwise function of the blocks.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: Scale the logits of the two Gaussian forms; the others have none.
        zero_init: Blocks start as the identity; else as :func:`.start_from_scratch` says.

    Raises:
        ValueError: A setting is unknown or has no meaning here.
        ImportError: torchvision is missing.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, section 6; He, Gkioxari, Dollar,
        Girshick: Mask R-CNN, ICCV 2017.

    Example:
        >>> network = DetectionNetwork(num_classes=2, depth=(1, 1, 1, 1), width=8, small=True, min_size=64)
        >>> found = network.eval()([torch.rand(3, 60, 80)])
        >>> sorted(found[0]), found[0]["masks"].shape[1:]
        (['boxes', 'labels', 'masks', 'scores'], torch.Size([1, 60, 80]))
    """

    def __init__(
        self,
        *,
        # As many settings as the paper's detectors differ in; presets set them.
        num_classes: int = 80,
        depth: int | Sequence[int] = 50,
        width: int = 64,
        groups: int = 1,
        group_width: int = 64,
        blocks: int | Placement = 0,
        head_blocks: int = 0,
        masks: bool = True,
        num_keypoints: int = 0,
        min_size: int | Sequence[int] = 800,
        max_size: int | None = None,
        trainable_stages: int = 3,
        frozen_eps: float = 1e-5,
        small: bool = False,
        anchors: Sequence[Sequence[int]] | None = None,
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: SubSample = "before",
        use_scale: bool = True,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, most=2**16)
        check_whole("num_keypoints", num_keypoints, least=0, most=2**10)
        # JSON has lists for several.
        short_sides = tuple(min_size) if isinstance(min_size, list | tuple) else (min_size,)
        if not short_sides:
            raise ValueError("min_size must be a number of pixels, or several; got none")
        for side in short_sides:
            check_whole("min_size", side, most=2**14)
        check_head_blocks(head_blocks, small=small)
        check_choice("trainable_stages", trainable_stages, tuple(range(6)))
        if not isinstance(frozen_eps, int | float) or not 0 <= frozen_eps < 1:
            raise ValueError(f"frozen_eps must be at least 0 and less than 1; got {frozen_eps!r:.80}")
        if masks and num_keypoints:
            raise ValueError("a network finds masks or keypoints: set masks=False, or num_keypoints=0")
        if head_blocks and not num_keypoints:
            raise ValueError("head_blocks stand in the head of keypoints: set num_keypoints, or leave it out")
        if small and (not isinstance(blocks, int) or blocks not in (0, 1)):
            raise ValueError(f"small networks have 0 blocks or 1, at one place; got {blocks!r:.80}")
        if anchors is not None and not small:
            raise ValueError("anchors are a setting of small networks: leave it out")
        if max_size is None:
            max_size = round(short_sides[-1] * _LONGEST)
        check_whole("max_size", max_size, least=max(short_sides), most=2**16)
        block_settings: dict[str, Any] = {
            "instantiation": instantiation,
            "sub_sample": sub_sample,
            "use_scale": use_scale and instantiation in ("gaussian", "embedded_gaussian"),
            "zero_init": zero_init,
        }
        residual = ResidualNetwork(
            num_sides=2,
            num_classes=1,
            depth=depth,
            width=width,
            groups=groups,
            group_width=group_width,
            blocks=0 if small else blocks,
            norm="batch" if small else "frozen",
            small_stem=small,
            zero_init_residual=not small,
            **block_settings,
        )
        body = _SmallBody(residual, bool(blocks), block_settings) if small else _Body(residual)
        _freeze_(body, trainable_stages, frozen_eps)
        with needs("torchvision", "data", "detection"):
            from torchvision.models import detection
        common: dict[str, Any] = {
            "min_size": short_sides,
            "max_size": max_size,
            "image_mean": list(_MEAN),
            "image_std": list(_DEVIATION),
        }
        backbone = _Backbone(body, _SMALL_WIDTH if small else 256, pools=not small)
        if small:
            common |= _SMALL_LIMITS | _small_parts(num_classes, _anchors_of(anchors, short_sides[-1]), masks)
        else:
            common["num_classes"] = num_classes + 1
        if num_keypoints:
            common |= keypoint_parts(
                backbone.out_channels,
                num_keypoints,
                small=small,
                levels=_SMALL_LEVELS,
                block_settings=block_settings if head_blocks else None,
            )
            made: Any = detection.KeypointRCNN(backbone, **common)
        else:
            made = (detection.MaskRCNN if masks else detection.FasterRCNN)(backbone, **common)
        self.num_classes = num_classes
        self.num_keypoints = num_keypoints
        self.has_masks = masks
        self.small = small
        # Its children under its own names: a child called "detector" would hide them from published weights.
        self.transform, self.backbone = made.transform, made.backbone
        self.rpn, self.roi_heads = made.rpn, made.roi_heads
        if not zero_init:
            start_from_scratch(self)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Found]:
        """Return losses by name in train mode, and what was found on each image in eval mode.

        Raises:
            ValueError: It is in train mode and there are no targets; or an image or a target is none.
        """
        if self.training and targets is None:
            raise ValueError(
                "in train mode the network takes targets, one for each image: give them, or eval()"
            )
        # Sizes of a trace are tensors, and stay open.
        if torch._C._get_tracing_state() is None:
            check_images(images, longest=self.transform.max_size)
            if self.training and targets is not None:
                check_targets(images, targets, num_classes=self.num_classes, masks=self.has_masks)
        sizes = [tuple(image.shape[-2:]) for image in images]
        given = None if targets is None else [dict(each) for each in targets]
        batch, given = self.transform(list(images), given)
        with self._real(batch.image_sizes, batch.tensors):
            maps = self.backbone(batch.tensors)
        # Regions are of other samples than images: they know nothing of the padding.
        proposals, losses = self.rpn(batch, maps, given)
        found, more = self.roi_heads(maps, proposals, batch.image_sizes, given)
        if self.training:
            return {**losses, **more}
        return self.transform.postprocess(found, batch.image_sizes, sizes)

    def _real(self, sizes: Sequence[tuple[int, int]], batch: Tensor) -> AbstractContextManager[None]:
        """Return the context in which blocks see no padding; there is none where nothing is padded.

        Raises:
            ValueError: The network is traced with an image that is padded.
        """
        canvas = tuple(map(int, batch.shape[-2:]))
        given = [tuple(map(int, size)) for size in sizes]
        if torch._C._get_tracing_state() is not None:
            if any(size != canvas for size in given):
                raise ValueError(
                    "a detector is traced for images of one size that need no padding; got "
                    f"{given} in {canvas}: "
                    "give an example whose sides are multiples of 32 when its short side is min_size"
                )
            return nullcontext()
        # Small networks are trained here, so that their layers can see no padding either.
        return real_positions(given, canvas, layers=self.small)


class _Body(nn.Module):
    """The stages of a residual network, each of whose maps is a level; names are torchvision's."""

    def __init__(self, network: ResidualNetwork) -> None:
        super().__init__()
        self.conv1, self.bn1, self.pool1 = network.conv1, network.bn1, network.pool1
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        first: Any = network.layer1[0]
        first_width = first.conv3.out_channels
        self.widths = tuple(first_width * 2**stage for stage in range(len(STAGES)))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = rectified(normalised(self.bn1, self.conv1(without_padding(x))), self.conv1, self.bn1)
        assert self.pool1 is not None, "only small networks have none"
        x = self.pool1(without_padding(x))
        levels: OrderedDict[str, Tensor] = OrderedDict()
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = stage(x)
            levels[str(number)] = x
        return levels


class _SmallBody(nn.Module):
    """The body of a small segmentation network and the beginning of its head, under its names.

    So a run of ``segment-cue`` gives all that looks far, and detection has to learn regions only.
    """

    def __init__(self, network: ResidualNetwork, has_block: bool, block_settings: dict[str, Any]) -> None:
        super().__init__()
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.layer1, self.layer2, self.layer3 = network.layer1, network.layer2, network.layer3
        narrow = network.conv1.out_channels * EXPANSION
        block = NonLocal2d(_SMALL_WIDTH, **block_settings) if has_block else None
        self.head = _Context(narrow * 4, _SMALL_WIDTH, block)
        self.widths = (narrow * 2, _SMALL_WIDTH)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = rectified(normalised(self.bn1, self.conv1(without_padding(x))), self.conv1, self.bn1)
        low = self.layer2(self.layer1(x))
        return OrderedDict([("0", low), ("1", self.head(self.layer3(low)))])


class _Context(nn.Module):
    """A 3x3 convolution and the block: the beginning of a segmentation network's head."""

    def __init__(self, in_channels: int, channels: int, block: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.nl = block

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm, activation = self.conv1
        y = activation(normalised(norm, convolution(without_padding(x))))
        return y if self.nl is None else self.nl(y)


class _Backbone(nn.Module):
    """A body and a feature pyramid on its levels: what torchvision's detectors take as a backbone."""

    def __init__(self, body: _Body | _SmallBody, out_channels: int, *, pools: bool) -> None:
        super().__init__()
        with needs("torchvision", "data", "detection"):
            from torchvision.ops import FeaturePyramidNetwork
            from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            list(body.widths), out_channels, LastLevelMaxPool() if pools else None
        )
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


def _anchors_of(given: Sequence[Sequence[int]] | None, min_size: int) -> tuple[tuple[int, ...], ...]:
    """Return the sides of the anchors of both levels.

    Raises:
        ValueError: They are not two for each of two levels.
    """
    if given is None:
        scale = min_size / _SMALL_SIDE
        return tuple(tuple(round(size * scale) for size in level) for level in _SMALL_ANCHORS)
    levels = [tuple(level) if isinstance(level, list | tuple) else () for level in given]
    if [len(level) for level in levels] != [2, 2]:
        raise ValueError(f"anchors must be two sides for each of two levels; got {given!r:.80}")
    for side in (side for level in levels for side in level):
        check_whole("each of anchors", side, most=2**14)
    return tuple(levels)


def _small_parts(num_classes: int, sizes: tuple[tuple[int, ...], ...], masks: bool) -> dict[str, Any]:
    """Return the parts of a small detector by the names of torchvision's arguments."""
    from torchvision.models.detection import anchor_utils, faster_rcnn, mask_rcnn
    from torchvision.ops import MultiScaleRoIAlign

    levels = list(_SMALL_LEVELS)
    parts: dict[str, Any] = {
        "rpn_anchor_generator": anchor_utils.AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
        "box_head": faster_rcnn.TwoMLPHead(_SMALL_WIDTH * 7 * 7, _SMALL_HIDDEN),
        "box_predictor": faster_rcnn.FastRCNNPredictor(_SMALL_HIDDEN, num_classes + 1),
        "box_detections_per_img": 50,
    }
    if masks:
        parts |= {
            "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 2),
            "mask_head": mask_rcnn.MaskRCNNHeads(_SMALL_WIDTH, (_SMALL_WIDTH, _SMALL_WIDTH), 1),
            "mask_predictor": mask_rcnn.MaskRCNNPredictor(_SMALL_WIDTH, _SMALL_WIDTH, num_classes + 1),
        }
    return parts


def _freeze_(body: nn.Module, trainable_stages: int, frozen_eps: float) -> None:
    """Set the constant of frozen norms, and leave the first stages out of the training."""
    for module in body.modules():
        if isinstance(module, FrozenNorm):
            module.eps = float(frozen_eps)
    trained = STAGES[max(0, len(STAGES) - trainable_stages) :]
    for name, parameter in body.named_parameters():
        # The fifth stage is what comes before res2.
        is_trained = trainable_stages == 5 or name.startswith((*trained, "head."))
        parameter.requires_grad_(is_trained)
