"""Maps of detectors lie over the photograph, whatever it was brought to and however it was padded."""

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import Bottleneck, ResNet

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.affinity.detectors import works_on_regions
from nonlocalnn.affinity.pictures import draw_rows
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.inference import Detector
from nonlocalnn.models import DetectionNetwork
from tolerances import assert_near, assert_same, near

BLOCK = "backbone.body.head.nl"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    # Of 50 x 70 pixels it makes 64 x 90, padded to 64 x 96.
    return randomize_(nl.create_model("nl1_maskrcnn_tiny", min_size=64)).eval()


def test_positions_lie_in_the_photograph(model):
    photograph = torch.rand(3, 50, 70)
    with torch.no_grad(), nl.capture_affinity(model) as maps:
        model([photograph])
    shown = maps[BLOCK]
    assert_same(shown.input, photograph[None])
    # Of 12 columns in 96 pixels those that see any of the 90.
    assert (shown.grid.sides, shown.grid.input_sides) == ((8, 12), (50, 70))
    # A step of 8 pixels of the resized photograph is so many of its own.
    assert shown.grid.steps == near((8 * 50 / 64, 8 * 70 / 89))
    (top, bottom), (left, right) = shown.grid.box(7, 11)
    assert (bottom, right) == (50.0, 70.0)
    assert 40 < top < 46
    assert 60 < left < 70
    assert shown.grid.position(49, 69) == (7, 11)
    # What is left out is padding: rows are whole without it.
    rows = shown.rows([(0, 0), (7, 11)])
    assert_near(rows.flatten(2).sum(2), torch.ones(1, 2))
    # Drawn over the photograph without anything else being named.
    assert draw_rows(shown, queries=[(3, 4)]).axes


def test_padding_is_cut_off(model):
    """Of a photograph that is made 64 x 66 and padded to 64 x 96, nine columns of twelve see anything."""
    photograph = torch.rand(3, 64, 66)
    with torch.no_grad(), nl.capture_affinity(model) as maps:
        model([photograph])
        cut = maps[BLOCK]
        # The same beside a larger one: the whole batch is the input, and padding weighs nothing.
        model([photograph, torch.rand(3, 64, 96)])
        both = maps[BLOCK]
    assert (cut.grid.sides, cut.key_grid.sides) == ((8, 9), (8, 9))
    assert cut.grid.steps == near((8.0, 8.0))
    assert both.grid.sides == (8, 12)
    assert both.input.shape == (2, 3, 64, 96)
    row = both.rows([(5, 7)])[0, 0]
    assert float(row[:, 9:].abs().sum()) == 0
    assert_near(cut.rows([(5, 7)])[0, 0], row[:, :9])


def test_detectors_of_torchvision():
    body = _resnet_fpn_extractor(ResNet(Bottleneck, [1, 1, 1, 1]), 5)
    model = detection.FasterRCNN(body, num_classes=2, min_size=64, max_size=96).eval()
    nl.insert_nonlocal_(model, ["backbone.body.layer2.0"], zero_init=False)
    photograph = torch.rand(3, 32, 33)
    with torch.no_grad(), nl.capture_affinity(model) as maps:
        model([photograph])
    shown = maps["backbone.body.layer2.0.nl"]
    # 64 x 66 in 64 x 96, a position of the map in 8 pixels, of the photograph 4.
    assert (shown.grid.sides, shown.grid.input_sides) == ((8, 9), (32, 33))
    assert shown.grid.steps == near((4.0, 4.0))
    assert_near(shown.rows([(0, 0)]).sum(), torch.tensor(1.0))


def test_blocks_of_heads_know_their_region_alone():
    torch.manual_seed(0)
    model = DetectionNetwork(
        num_classes=1,
        depth=(1, 1, 1, 1),
        width=8,
        blocks={"layer3": (0,)},
        masks=False,
        num_keypoints=2,
        head_blocks=4,
        min_size=64,
    ).eval()
    model.rpn._post_nms_top_n["testing"] = 2
    model.roi_heads.score_thresh = 0.0
    model.roi_heads.detections_per_img = 2
    name = "roi_heads.keypoint_head.3.nl"
    assert works_on_regions(model, name)
    assert not works_on_regions(model, "backbone.body.layer3.0.nl")
    photograph = torch.rand(3, 64, 64)
    with torch.no_grad(), nl.capture_affinity(model, [name]) as maps:
        model([photograph])
    assert (maps[name].grid.sides, maps[name].grid.input_sides) == ((14, 14), (14, 14))
    assert maps[name].input is None
    loaded = Detector(model=model, classes=("a",), class_ids=(1,), sample_shape=(3, 64, 64))
    assert list(answer_with_maps(loaded, photograph).maps) == ["backbone.body.layer3.0.nl"]
    with pytest.raises(ValueError, match=r"keypoint_head\.3\.nl works on regions, one after another"):
        answer_with_maps(loaded, photograph, blocks=[name])
    with pytest.raises(ValueError, match="effects are on the score of one class"):
        answer_with_maps(loaded, photograph, effects=True)
