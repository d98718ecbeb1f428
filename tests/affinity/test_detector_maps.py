"""Maps of detectors lie over the photograph, whatever it was brought to and however it was padded."""

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import Bottleneck, ResNet

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.affinity.pictures import draw_rows
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.inference import Detector
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


HEAD = "roi_heads.keypoint_head.3.nl"


@pytest.fixture
def heads():
    """It gives the three boxes that a test puts in; of 50 x 60 pixels it makes 80 x 96."""
    torch.manual_seed(0)
    model = randomize_(nl.create_model("nl2head1_keypointrcnn_tiny", num_classes=1, min_size=80)).eval()

    def finds(*boxes):
        given = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        scores = torch.linspace(0.9, 0.4, len(given))
        found = [given], [scores], [torch.ones(len(given), dtype=torch.int64)]
        model.roi_heads.postprocess_detections = lambda *_: found
        return model

    return finds


# In the photograph of 50 x 60; the network sees them 1.6 times as large.
BOXES = [(30.0, 10.0, 58.0, 38.0), (5.0, 20.0, 26.0, 34.0), (10.0, 2.0, 24.0, 16.0)]


def seen(boxes):
    return [tuple(1.6 * side for side in box) for box in boxes]


def test_blocks_of_heads_lie_in_their_regions(heads):
    model, photograph = heads(*seen(BOXES)), torch.rand(3, 50, 60)
    with torch.no_grad(), nl.capture_affinity(model) as maps:
        found = model([photograph])[0]
    assert_near(found["boxes"], torch.tensor(BOXES))
    shown = maps[HEAD]
    assert (shown.grid.sides, shown.grid.input_sides) == ((14, 14), (14, 14))
    assert (shown.input, len(shown.regions), shown.theta.shape[0]) == (None, 3, 3)
    for number, (left, top, right, bottom) in enumerate(BOXES):
        own = shown.of_region(number)
        assert_same(own.input, photograph[None])
        assert own.grid.input_sides == (50, 60)
        assert own.grid.steps == near(((bottom - top) / 14, (right - left) / 14))
        # The first and the last position touch the edges of the box.
        half = [step / 2 for step in own.grid.steps]
        assert own.grid.centre(0, 0) == near((top + half[0], left + half[1]))
        assert own.grid.centre(13, 13) == near((bottom - half[0], right - half[1]))
        assert_same(own.rows([(4, 5)])[0], shown.rows([(4, 5)])[number])
        assert draw_rows(own, queries=[(3, 4)]).axes
    assert own.grid.reaches(9, 17)
    assert not own.grid.reaches(40, 17)
    with pytest.raises(ValueError, match="region must be from 0 to 2; got 3"):
        shown.of_region(3)
    with pytest.raises(ValueError, match="this map lies over its input"):
        maps[BLOCK].of_region(0)


def test_what_a_region_attends_to_is_where_it_is_bright(heads):
    """A planted block looks at the brightest key: its place in the photograph, and not merely in the box."""
    model = heads(*seen(BOXES))
    block = model.get_submodule(HEAD)
    with torch.no_grad():
        for layer in (block.theta, block.phi):
            layer.weight.zero_()
            layer.bias.zero_()
        block.theta.bias[0] = 30.0
        block.phi.weight[0] = 1.0
    # The head's input in place of what it learnt: the region of the photograph itself.
    photograph = torch.zeros(3, 50, 60)
    photograph[:, 24:27, 19:22] = 1.0

    class Seen(torch.nn.Module):
        def forward(self, features, boxes, sizes):
            from torchvision.ops import roi_align

            resized = torch.nn.functional.interpolate(photograph[None], (80, 96), mode="bilinear")
            return roi_align(resized, boxes, 14, aligned=True).mean(1, keepdim=True).expand(-1, 64, -1, -1)

    model.roi_heads.keypoint_roi_pool = Seen()
    for name in ("0", "2"):
        layer = model.roi_heads.keypoint_head.get_submodule(name)
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[:, :, 1, 1] = torch.eye(64)
            layer.bias.zero_()
    with torch.no_grad(), nl.capture_affinity(model, [HEAD]) as maps:
        model([photograph])
    own = maps[HEAD].of_region(1)
    _, places = own.top([(0, 0), (13, 13)], 1)
    for place in places[0, :, 0].tolist():
        row, column = own.key_grid.centre(*place)
        assert 24 <= row <= 27
        assert 19 <= column <= 22


def test_regions_of_two_photographs(heads):
    model = heads(*seen(BOXES))
    one, two = torch.rand(3, 50, 60), torch.rand(3, 100, 120)
    given = model.roi_heads.postprocess_detections()
    model.roi_heads.postprocess_detections = lambda *_: tuple([part[0][:2], part[0][2:]] for part in given)
    with torch.no_grad(), nl.capture_affinity(model, [HEAD]) as maps:
        model([one, two])
    first, last = (maps[HEAD].of_region(number) for number in (1, 2))
    assert_same(first.input, one[None])
    assert_same(last.input, two[None])
    # The second photograph was twice as large, and so is the box in it.
    assert last.grid.centre(0, 0) == near((4 + 1.0, 20 + 1.0))
    assert last.grid.steps == near((2.0, 2.0))


def test_keys_that_were_pooled_lie_in_the_region_too(heads):
    model = heads(*seen(BOXES))
    own = nl.create_model(
        "nl2head1_keypointrcnn_tiny", num_classes=1, min_size=80, sub_sample="before"
    ).eval()
    own.roi_heads.postprocess_detections = model.roi_heads.postprocess_detections
    with torch.no_grad(), nl.capture_affinity(own, [HEAD]) as maps:
        own([torch.rand(3, 50, 60)])
    shown = maps[HEAD].of_region(0)
    assert (shown.key_grid.sides, shown.key_grid.steps) == ((7, 7), near((4.0, 4.0)))
    assert shown.key_grid.centre(0, 0) == near((12.0, 32.0))


def test_an_answer_has_a_map_for_each_object(heads):
    classes, ids = ("a",), (1,)
    loaded = Detector(model=heads(*seen(BOXES)), classes=classes, class_ids=ids, sample_shape=(3, 50, 60))
    answer = answer_with_maps(loaded, torch.rand(3, 50, 60))
    # The third one's score is 0.4, and it is not shown.
    second = HEAD.replace("3", "7")
    assert list(answer.maps) == [
        BLOCK,
        *(f"{name}, object {number}" for number in (1, 2) for name in (HEAD, second)),
    ]
    assert answer.maps[f"{HEAD}, object 2"].grid.centre(0, 0) == near((20.5, 5.75))
    assert list(answer_with_maps(loaded, torch.rand(3, 50, 60), blocks=[HEAD]).maps) == [
        f"{HEAD}, object 1",
        f"{HEAD}, object 2",
    ]
    nothing = Detector(model=heads(), classes=classes, class_ids=ids, sample_shape=(3, 50, 60))
    assert list(answer_with_maps(nothing, torch.rand(3, 50, 60)).maps) == [BLOCK]
    with pytest.raises(
        ValueError, match=r"no map: .*keypoint_head\.3\.nl look at objects, and none has a score"
    ):
        answer_with_maps(nothing, torch.rand(3, 50, 60), blocks=[HEAD])
    with pytest.raises(ValueError, match="effects are on the score of one class"):
        answer_with_maps(loaded, torch.rand(3, 50, 60), effects=True)


def test_heads_of_masks_look_at_objects_and_that_of_boxes_at_proposals():
    torch.manual_seed(0)
    model = nl.create_model("nl1_maskrcnn_tiny", num_classes=1, min_size=64).eval()
    nl.insert_nonlocal_(model, ["roi_heads.mask_head.0.0"], zero_init=False)
    model.roi_heads.score_thresh = 0.0
    name = "roi_heads.mask_head.0.0.nl"
    with torch.no_grad(), nl.capture_affinity(model, [name]) as maps:
        found = model([torch.rand(3, 64, 64)])[0]
    regions = maps[name].regions
    assert regions.are_objects
    assert_near(regions.boxes, found["boxes"])
    # A head of boxes that is a convolution, as torchvision's second version has it.
    model.roi_heads.box_head = torch.nn.Sequential(
        nl.NonLocal2d(64), torch.nn.Flatten(), torch.nn.Linear(64 * 7 * 7, 128)
    )
    with torch.no_grad(), nl.capture_affinity(model, ["roi_heads.box_head.0"]) as maps:
        model([torch.rand(3, 64, 64)])
    regions = maps["roi_heads.box_head.0"].regions
    assert len(regions) > 10
    assert not regions.are_objects
    loaded = Detector(model=model, classes=("a",), class_ids=(1,), sample_shape=(3, 64, 64))
    with pytest.raises(ValueError, match=r"no map: roi_heads\.box_head\.0 look at proposals, of which there"):
        answer_with_maps(loaded, torch.rand(3, 64, 64), blocks=["roi_heads.box_head.0"])
