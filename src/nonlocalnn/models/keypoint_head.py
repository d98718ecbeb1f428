"""The head that finds points of an object in its region, and the non-local blocks in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nonlocalnn._errors import check_choice, needs
from nonlocalnn.blocks import NonLocal2d
from nonlocalnn.functional.norms import Norm

# Channels of its convolutions, torchvision's and those of small networks. A block follows every second one.
WIDTHS, SMALL_WIDTHS = (512,) * 8, (64,) * 4
_EVERY = 2
# Of a region with its object, of which small networks learn points; torchvision's learn them from half on.
_LEAST_OVERLAP = 0.7


class _ReLUThenBlock(nn.ReLU):
    """ReLU and then a non-local block, in a sequence whose other keys stay as they are."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.nl = block

    def forward(self, x: Tensor) -> Tensor:
        return self.nl(super().forward(x))


def check_head_blocks(head_blocks: int, *, small: bool) -> None:
    """Check that blocks follow every second convolution of a head, or none.

    Raises:
        ValueError: It is another number.
    """
    check_choice("head_blocks", head_blocks, (0, len(SMALL_WIDTHS if small else WIDTHS) // _EVERY))


def keypoint_parts(
    in_channels: int,
    num_keypoints: int,
    *,
    small: bool,
    levels: Sequence[str],
    block_settings: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the head by the names of torchvision's arguments.

    Args:
        in_channels: Of the pyramid.
        num_keypoints: How many points it finds of each object.
        small: Whether it is a small network's.
        levels: Names of the levels of the pyramid that a small network looks at.
        block_settings: Of the blocks; None is no block.
    """
    with needs("torchvision", "data", "detection"):
        from torchvision.models.detection import keypoint_rcnn
        from torchvision.ops import MultiScaleRoIAlign
    widths = SMALL_WIDTHS if small else WIDTHS
    head = keypoint_rcnn.KeypointRCNNHeads(in_channels, widths)
    if block_settings is not None:
        # As in the body: trained from scratch, blocks without a norm begin too weak to be of use.
        norm: Norm = "batch" if small else None
        # A convolution and its ReLU are two places of the sequence; the block comes after the ReLU.
        for place in range(2 * _EVERY - 1, len(head), 2 * _EVERY):
            head[place] = _ReLUThenBlock(NonLocal2d(widths[0], norm=norm, **block_settings))
    parts: dict[str, Any] = {"keypoint_head": head}
    if small:
        # Parts of its own: torchvision's are as wide as its head, and look at other levels.
        parts["keypoint_roi_pool"] = MultiScaleRoIAlign(list(levels), 14, 2)
        parts["keypoint_predictor"] = keypoint_rcnn.KeypointRCNNPredictor(widths[-1], num_keypoints)
        # A region that holds half of its object lacks points, or what tells them apart: in a training of
        # minutes too many of all regions would.
        parts["box_fg_iou_thresh"] = _LEAST_OVERLAP
    else:
        parts["num_keypoints"] = num_keypoints
    return parts
