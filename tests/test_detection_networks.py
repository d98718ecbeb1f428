"""Detection networks: torchvision's numbers with their weights, the paper's blocks, weights to begin with."""

from pathlib import Path

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import Bottleneck, ResNet

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.models import DetectionNetwork, model_task
from nonlocalnn.tasks.objects import found_objects
from nonlocalnn.train.detector_weights import check_constant
from nonlocalnn.train.initial_weights import start_from_
from tolerances import NETWORK, assert_near, assert_same

NAMES = [name for name in nl.list_models() if model_task(name) == "detection"]


def numbers(module):
    return sum(each.numel() for each in module.parameters())


def tiny(**settings):
    torch.manual_seed(0)
    return nl.create_model("nl1_maskrcnn_tiny", **settings)


def target(boxes, labels, height=96, width=128):
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


def test_names_and_places_of_the_blocks():
    assert {name.partition("cnn_")[0] for name in NAMES} == {
        *("fasterr", "maskr", "nl1_fasterr", "nl1_maskr"),
        *("keypointr", "nl4head_keypointr", "nl4head1_keypointr", "nl2head_keypointr", "nl2head1_keypointr"),
    }


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("r50", 4),
        pytest.param("r101", 21, marks=pytest.mark.slow),
        pytest.param("x152", 34, marks=pytest.mark.slow),
    ],
)
def test_the_block_stands_before_the_last_bottleneck_of_res4(body, place):
    with torch.device("meta"):
        model, plain = nl.create_model(f"nl1_maskrcnn_{body}"), nl.create_model(f"maskrcnn_{body}")
    (name,), (block,) = nl.nonlocal_blocks(model), nl.nonlocal_blocks(model).values()
    assert name == f"backbone.body.layer3.{place}.nl"
    assert place == len(model.backbone.body.layer3) - 2
    assert (block.norm, block.sub_sample, block.scale) == (None, "before", 512**-0.5)
    assert numbers(model) - numbers(plain) == 2_099_712


@pytest.mark.slow
def test_blocks_of_the_keypoint_head():
    with torch.device("meta"):
        model, plain = nl.create_model("nl4head_keypointrcnn_r101"), nl.create_model("keypointrcnn_r101")
    assert list(nl.nonlocal_blocks(model)) == [f"roi_heads.keypoint_head.{n}.nl" for n in (3, 7, 11, 15)]
    assert numbers(model) - numbers(plain) == 4 * 525_568
    with torch.device("meta"):
        assert len(nl.nonlocal_blocks(nl.create_model("nl4head1_keypointrcnn_r101"))) == 5


def test_a_small_head_of_keypoints():
    """Two blocks in the head, one in the body; the head's change its points and nothing else."""
    model = nl.create_model("nl2head1_keypointrcnn_tiny", num_classes=2, num_keypoints=5).eval()
    head = [f"roi_heads.keypoint_head.{n}.nl" for n in (3, 7)]
    assert list(nl.nonlocal_blocks(model)) == ["backbone.body.head.nl", *head]
    assert "nl2head_keypointrcnn_tiny" in nl.list_models()
    # From a random start a block without a norm is too weak to be of use, and regions must hold their object.
    assert all(isinstance(model.get_submodule(name).norm, torch.nn.BatchNorm2d) for name in head)
    assert model.roi_heads.proposal_matcher.high_threshold == 0.7
    image = torch.rand(3, 60, 80)
    with torch.no_grad():
        (found,) = model([image])
        assert found["keypoints"].shape == (len(found["boxes"]), 5, 3)
        for name in head:
            nl.nonlocal_blocks(model)[name].W_z.weight.normal_(std=5)
        (changed,) = model([image])
    assert_same(changed["boxes"], found["boxes"])
    assert not torch.equal(changed["keypoints"], found["keypoints"])
    target = {
        "boxes": torch.tensor([[10.0, 10, 40, 50]]),
        "labels": torch.tensor([1]),
        # A point that is not marked has no part in the loss: all that are not give 0, and no NaN.
        "keypoints": torch.zeros(1, 5, 3),
    }
    losses = model.train()([image], [target])
    assert float(losses["loss_keypoint"].detach()) == 0


@pytest.mark.slow
def test_the_x152_is_a_resnext():
    with torch.device("meta"):
        model = nl.create_model("maskrcnn_x152")
        theirs = ResNet(Bottleneck, [3, 8, 36, 3], groups=32, width_per_group=8)
    own = {
        name.removeprefix("backbone.body."): value.shape
        for name, value in model.state_dict().items()
        if name.startswith("backbone.body.")
    }
    assert own == {
        name: value.shape
        for name, value in theirs.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(
    "kind",
    ["MaskRCNN", *(pytest.param(each, marks=pytest.mark.slow) for each in ("KeypointRCNN", "FasterRCNN"))],
)
def test_torchvisions_networks_with_their_weights(kind, tmp_path):
    """The same answers where a block starts as the identity, of images that are padded too."""
    sizes = {"min_size": 64, "max_size": 96}
    more = {"num_keypoints": 5} if kind == "KeypointRCNN" else {}
    torch.manual_seed(3)
    body = _resnet_fpn_extractor(ResNet(Bottleneck, [1, 1, 2, 1]), 5)
    theirs = getattr(detection, kind)(body, num_classes=4, **sizes, **more).eval()
    with torch.no_grad():
        # Norms that change nothing would let the maps of untrained layers grow.
        for name, value in theirs.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0).mul_(8)
    torch.save(theirs.state_dict(), tmp_path / "detector.pth")
    settings = {"masks": kind == "MaskRCNN", "num_keypoints": more.get("num_keypoints", 0)}
    ours = DetectionNetwork(
        num_classes=3, depth=(1, 1, 2, 1), blocks={"layer3": (0,)}, **sizes, **settings
    ).eval()
    kept = start_from_(ours, tmp_path / "detector.pth")
    assert {name.partition(".nl.")[0] for name in kept} == {"backbone.body.layer3.0"}
    for each in (ours, theirs):
        # 1,000 regions of an untrained network say no more than 20.
        each.rpn._post_nms_top_n["testing"] = 20
        each.roi_heads.detections_per_img = 3
    images = [torch.rand(3, 70, 90), torch.rand(3, 50, 50)]
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert len(expected[0]["boxes"])
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert_near(one[name], other[name], sums=NETWORK)


def test_published_weights_have_a_constant_of_their_own():
    published = Path("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    with pytest.raises(CheckpointError, match="set frozen_eps to 0"):
        check_constant(DetectionNetwork(depth=(1, 1, 1, 1), width=8), published)
    check_constant(DetectionNetwork(depth=(1, 1, 1, 1), width=8, frozen_eps=0), published)
    check_constant(DetectionNetwork(depth=(1, 1, 1, 1), width=8), Path("runs/own.pth"))


def test_weights_of_coco_under_their_old_names(tmp_path):
    torch.manual_seed(0)
    model = DetectionNetwork(num_classes=80, depth=(1, 1, 1, 1), width=8)
    rows = {81: 91, 4 * 81: 4 * 91}
    theirs = {
        name: torch.randn(rows.get(value.shape[0], value.shape[0]), *value.shape[1:])
        for name, value in model.state_dict().items()
    }
    # As the published file has them.
    old = {}
    for name, value in theirs.items():
        words = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for kind in ("inner", "layer"):
            for level in range(4):
                words = words.replace(f"{kind}_blocks.{level}.0.", f"{kind}_blocks.{level}.")
        for layer in range(4):
            words = words.replace(f"mask_head.{layer}.0.", f"mask_head.mask_fcn{layer + 1}.")
        old[words] = value
    assert "roi_heads.mask_head.mask_fcn1.weight" in old
    torch.save(old, tmp_path / "maskrcnn.pth")
    assert start_from_(model, tmp_path / "maskrcnn.pth") == []
    own = model.state_dict()
    assert_same(own["rpn.head.conv.0.0.weight"], theirs["rpn.head.conv.0.0.weight"])
    # A traffic light is COCO's 10, and a fire hydrant, number 11 of the 80 and of the file, its 11; then 13.
    for ours, coco in ((10, 10), (11, 11), (12, 13), (80, 90), (0, 0)):
        assert_same(
            own["roi_heads.box_predictor.cls_score.weight"][ours],
            theirs["roi_heads.box_predictor.cls_score.weight"][coco],
        )
        assert_same(
            own["roi_heads.box_predictor.bbox_pred.bias"][4 * ours : 4 * ours + 4],
            theirs["roi_heads.box_predictor.bbox_pred.bias"][4 * coco : 4 * coco + 4],
        )
        assert_same(
            own["roi_heads.mask_predictor.mask_fcn_logits.bias"][ours],
            theirs["roi_heads.mask_predictor.mask_fcn_logits.bias"][coco],
        )


def test_bodies_of_classifiers_and_of_segmentation(tmp_path):
    model = DetectionNetwork(num_classes=2, depth=(1, 1, 1, 1))
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1]).state_dict(), tmp_path / "resnet.pth")
    kept = start_from_(model, tmp_path / "resnet.pth")
    assert not any(name.startswith("backbone.body.") for name in kept)
    scenes = randomize_(nl.create_model("nl_fcn_tiny"))
    nl.save_checkpoint(scenes, tmp_path / "scenes.safetensors")
    detector = tiny()
    kept = start_from_(detector, tmp_path / "scenes.safetensors")
    assert not any(name.startswith("backbone.body.") for name in kept)
    assert_same(detector.backbone.body.head.nl.W_z.weight, scenes.head.nl.W_z.weight)
    x = torch.rand(1, 3, 48, 64)
    scenes.eval(), detector.eval()
    maps = scenes.layer3(scenes.layer2(scenes.layer1(torch.relu(scenes.bn1(scenes.conv1(x))))))
    assert_near(detector.backbone.body(x)["1"], scenes.head.nl(scenes.head.conv1(maps)), sums=NETWORK)
    with pytest.raises(CheckpointError, match="of another network"):
        start_from_(model, tmp_path / "scenes.safetensors")


def test_losses_and_answers():
    model = tiny()
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 70)]
    targets = [target([(5, 5, 30, 30), (60, 20, 90, 44)], [1, 2]), target([], [], 80, 70)]
    before = [{name: value.clone() for name, value in each.items()} for each in targets]
    losses = model.train()(images, targets)
    assert set(losses) == {
        *("loss_classifier", "loss_box_reg", "loss_mask"),
        *("loss_objectness", "loss_rpn_box_reg"),
    }
    sum(losses.values()).backward()
    assert all(each.grad is not None for each in model.parameters())
    # What the caller gave stays as it was.
    for one, other in zip(targets, before, strict=True):
        for name in one:
            assert_same(one[name], other[name])
    with pytest.raises(ValueError, match="takes targets, one for each image"):
        model(images)
    # A batch without any object has a loss, and each parameter a gradient.
    model.zero_grad()
    sum(model(images[1:], targets[1:]).values()).backward()
    assert all(each.grad is not None for each in model.parameters())
    found = model.eval()(images)
    assert [each["masks"].shape[2:] for each in found] == [(96, 128), (80, 70)]


def test_padding_of_a_batch_changes_no_answer():
    """An image beside a larger one is what it is alone: small networks see no padding."""
    model = randomize_(tiny()).eval()
    small, large = torch.rand(3, 96, 96), torch.rand(3, 96, 160)
    with torch.no_grad():
        alone = model.backbone(model.transform([small])[0].tensors)["1"]
        seen = {}
        model.backbone.register_forward_hook(lambda *given: seen.update(given[-1]))
        model([small, large])
    assert_near(seen["1"][:1, :, :12, :11], alone[:, :, :12, :11], sums=NETWORK)


def test_which_layers_are_trained():
    model = DetectionNetwork(depth=(1, 1, 1, 1), width=8, trainable_stages=2)
    frozen = {name.split(".")[2] for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen == {"conv1", "layer1", "layer2"}
    assert all(each.requires_grad for each in tiny().parameters())


def test_a_checkpoint_makes_it_again(tmp_path):
    model = randomize_(tiny(num_classes=5, min_size=64))
    nl.save_checkpoint(model, tmp_path / "a.safetensors")
    again = nl.load_checkpoint(tmp_path / "a.safetensors")
    assert (again.num_classes, again.transform.min_size) == (5, (64,))
    for name, value in again.state_dict().items():
        assert_same(value, model.state_dict()[name])
    # Sides of the boxes that proposals begin with: from 1/8 to 1/2 of the short side, or as they are told.
    assert again.rpn.anchor_generator.sizes == ((8, 12), (17, 32))
    own = tiny(anchors=[[20, 30], [40, 60]])
    assert own.rpn.anchor_generator.sizes == ((20, 30), (40, 60))
    with pytest.raises(ValueError, match="small networks have 0 blocks or 1"):
        tiny(blocks=5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_keypoints": 3}, "masks or keypoints"),
        ({"head_blocks": 4}, "stand in the head of keypoints"),
        ({"head_blocks": 2, "masks": False, "num_keypoints": 3}, "head_blocks must be one of 0, 4"),
        ({"head_blocks": 4, "small": True}, "head_blocks must be one of 0, 2"),
        ({"min_size": 0}, "min_size must be a whole number"),
        ({"max_size": 5}, "max_size must be a whole number"),
        ({"frozen_eps": 2}, "frozen_eps must be"),
        ({"trainable_stages": 6}, "trainable_stages must be one of"),
        ({"anchors": [[8, 9], [9, 9]]}, "anchors are a setting of small networks"),
        ({"small": True, "anchors": [[8, 9]]}, "two sides for each of two levels"),
        ({"small": True, "anchors": [[8, 9], [0, 4]]}, "each of anchors must be a whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_have_no_meaning(settings, says):
    with pytest.raises(ValueError, match=says):
        DetectionNetwork(**settings)


def test_what_a_detector_costs():
    theirs = detection.MaskRCNN(_resnet_fpn_extractor(ResNet(Bottleneck, [1, 1, 1, 1]), 5), num_classes=4)
    with torch.device("meta"):
        model = DetectionNetwork(num_classes=3, depth=(1, 1, 1, 1), blocks={"layer3": (0,)})
        keypoints = DetectionNetwork(
            num_classes=1, depth=(1, 1, 1, 1), masks=False, num_keypoints=17, head_blocks=4
        )
    ours = nl.cost(model, (1, 3, 320, 416))
    (block,) = ours.blocks
    assert (block.num_queries, block.num_keys) == (20 * 26, 10 * 13)
    assert ours.flops - block.flops == nl.cost(theirs, (1, 3, 320, 416)).flops
    head = nl.cost(keypoints, (1, 3, 320, 416)).blocks
    assert [each.input_shape for each in head] == [(100, 512, 14, 14)] * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_of_images_of_one_size(tmp_path):
    """The exporter by tracing takes a detector, blocks and all, where nothing is padded."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    model = randomize_(tiny()).eval()
    image, path = torch.rand(3, 96, 128), tmp_path / "detector.onnx"
    torch.onnx.export(model, ([image],), path, dynamo=False)
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        (expected,) = model([image])
    for one, name in zip(found, ("boxes", "labels", "scores", "masks"), strict=True):
        assert_near(torch.from_numpy(one).float(), expected[name].float(), sums=NETWORK)
    with pytest.raises(ValueError, match="traced for images of one size that need no padding"):
        torch.onnx.export(model, ([torch.rand(3, 96, 100)],), path, dynamo=False)


def marked(boxes=((3.0, 4.0, 20.0, 30.0),), labels=(1,), size=(40, 50), **change):
    target = {
        "boxes": torch.tensor(boxes).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.ones(len(boxes), *size, dtype=torch.uint8),
    }
    return {name: value for name, value in {**target, **change}.items() if value is not None}


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([], "a target for each image; got 0 for 1"),
        ([marked(masks=None)], "target 0 must have boxes, labels, masks; it lacks masks"),
        ([marked(labels=(1, 2))], r"boxes \(n, 4\) and labels \(n,\); got \(1, 4\) and \(2,\)"),
        ([marked(labels=(0,))], r"labels must be from 1 to 2, 0 is the background; got \[0\]"),
        ([marked(labels=(3,))], r"got \[3\]"),
        ([marked([(3.0, 4.0, 3.0, 30.0)])], r"box 0 is \[3\.0, 4\.0, 3\.0, 30\.0\]"),
        ([marked([(3.0, 4.0, float("nan"), 30.0)])], "with an area"),
        ([marked([(3.0, float("-inf"), 9.0, 30.0)])], "with an area"),
        ([marked(size=(9, 9))], r"masks must be \(1, 40, 50\), as the image is; got \(1, 9, 9\)"),
    ],
)
def test_what_is_no_target(targets, says):
    model = nl.create_model("maskrcnn_tiny", num_classes=2, min_size=32).train()
    with pytest.raises(ValueError, match=says):
        model([torch.rand(3, 40, 50)], targets)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "one at least; got none"),
        ([torch.rand(1, 40, 50)], r"image 0 must be \(3, h, w\); got shape \(1, 40, 50\)"),
        (torch.rand(3, 40, 50), r"got shape \(40, 50\)"),
        ([torch.rand(3, 9, 9), torch.rand(3, 1, 300)], "image 1 of 300 x 1 pixels is too thin"),
    ],
)
def test_what_is_no_image(images, says):
    with pytest.raises(ValueError, match=says):
        nl.create_model("maskrcnn_tiny", min_size=32).eval()(images)


def test_an_image_of_no_numbers_is_not_one_without_objects():
    model = nl.create_model("maskrcnn_tiny", min_size=32).eval()
    with pytest.raises(ValueError, match="no finite numbers"):
        found_objects(model, torch.full((3, 40, 50), float("nan")))


def test_training_draws_a_short_side_and_a_test_takes_the_last():
    torch.manual_seed(0)
    model = nl.create_model("fasterrcnn_tiny", min_size=[48, 64, 80])
    images, seen = [torch.rand(3, 40, 50)], set()
    target = {"boxes": torch.tensor([[3.0, 3, 20, 20]]), "labels": torch.tensor([1])}
    model.transform.register_forward_hook(lambda _, __, out: seen.add(out[0].image_sizes[0][0]))
    for _ in range(12):
        model(images, [target])
    assert seen == {48, 64, 80}
    seen.clear()
    with torch.no_grad():
        for _ in range(3):
            model.eval()(images)
    assert seen == {80}
    # Anchors and the longest side are those of the last.
    single = nl.create_model("fasterrcnn_tiny", min_size=80)
    assert model.transform.max_size == single.transform.max_size
    assert model.rpn.anchor_generator.sizes == single.rpn.anchor_generator.sizes
    for wrong, says in (([], "several; got none"), ([64, 0], "min_size must be"), (6.5, "min_size must be")):
        with pytest.raises(ValueError, match=says):
            nl.create_model("fasterrcnn_tiny", min_size=wrong)
