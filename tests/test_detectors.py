"""Blocks in detectors know which part of each padded image is real."""

import copy

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.functional import masks
from nonlocalnn.surgery.detectors import follow_padding_
from tolerances import NETWORK, assert_near

detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")

SIZES = [(23, 17), (19, 29)]


class Detector(nn.Module):
    """What the detectors of torchvision have in common: the transform, the backbone, and what follows."""

    def __init__(self, after):
        super().__init__()
        self.transform = detection.transform.GeneralizedRCNNTransform(
            min_size=16, max_size=64, image_mean=[0.4] * 3, image_std=[0.3] * 3, size_divisible=8
        )
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1))
        self.after = after

    def forward(self, images):
        batch, _ = self.transform(images, None)
        return self.after(self.backbone(batch.tensors)), batch.image_sizes


def detector(after=None):
    model = Detector(nn.Identity() if after is None else after).eval()
    nl.insert_nonlocal_(model, ["backbone.0"], zero_init=False)
    return randomize_(model).double()


def images():
    return [torch.rand(3, *size, dtype=torch.float64) for size in SIZES]


@pytest.mark.parametrize("copied", [False, True])
def test_images_in_a_batch_are_as_they_are_alone(copied):
    model, batch = detector(), images()
    model = copy.deepcopy(model) if copied else model
    maps, sizes = model(batch)
    assert len(set(sizes)) == 2
    for image, found, (height, width) in zip(batch, maps, sizes, strict=True):
        alone, _ = model([image])
        assert_near(found[:, :height, :width], alone[0, :, :height, :width], sums=NETWORK)
    assert not masks._active


def test_what_follows_the_backbone_sees_no_sizes():
    class Regions(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nl.NonLocal2d(8)

        def forward(self, maps):
            return self.block(maps.repeat(3, 1, 1, 1)[:5])  # regions: other numbers of samples

    maps, _ = detector(Regions())(images())
    assert maps.shape[0] == 5


def test_an_error_in_the_backbone_ends_the_context():
    model = detector()
    model.backbone.append(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        model(images())
    assert not masks._active
    assert model.backbone[:1](torch.zeros(1, 3, 5, 5, dtype=torch.float64)).shape == (1, 8, 5, 5)


def test_it_is_done_once():
    model = detector()
    assert follow_padding_(model) == []
    assert follow_padding_(nn.Sequential(Detector(nn.Identity()))) == ["0.backbone"]
    assert follow_padding_(nn.Linear(2, 2)) == []


def test_faster_rcnn_takes_images_of_two_sizes():
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
    )
    nl.insert_nonlocal_(model, ["backbone.fpn.layer_blocks.0"], zero_init=False)
    seen = []
    (block,) = nl.nonlocal_blocks(model).values()
    block.register_forward_pre_hook(lambda module, inputs: seen.append(masks._active[-1].sizes.tolist()))
    found = model.eval()([torch.rand(3, 60, 40), torch.rand(3, 40, 60)])
    assert len(found) == 2
    assert seen == [[[96, 64], [64, 96]]]
