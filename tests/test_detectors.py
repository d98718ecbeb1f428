"""Blocks in detectors know which part of each padded image is real."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.functional import masks
from nonlocalnn.surgery import detectors
from nonlocalnn.surgery.detectors import follow_padding_
from tolerances import NETWORK, assert_near, assert_same

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
    assert masks.KNOWN_SIZES.current() is None


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
    assert masks.KNOWN_SIZES.current() is None
    assert model.backbone[:1](torch.zeros(1, 3, 5, 5, dtype=torch.float64)).shape == (1, 8, 5, 5)


def test_sizes_belong_to_the_batch_that_the_transform_returned():
    model = detector()
    # Without the hooks of the detector.
    copies = copy.deepcopy(model)
    copies.backbone._forward_pre_hooks.clear()
    padded, _ = model.transform(images(), None)
    second, _ = model.transform(images()[::-1], None)
    canvas = padded.tensors.shape[2:]
    assert second.tensors.shape == padded.tensors.shape
    with nl.real_positions(padded.image_sizes, canvas):
        first_wanted = model.backbone(padded.tensors.clone())
    with nl.real_positions(second.image_sizes, canvas):
        second_wanted = model.backbone(second.tensors.clone())
    for _ in range(2):  # whichever was padded last, and however often
        assert_same(model.backbone(padded.tensors), first_wanted)
        assert_same(model.backbone(second.tensors.detach()), second_wanted)
    # Another batch of the same shape, a part, and what is made of the batch have no sizes.
    for x in (torch.rand_like(padded.tensors), padded.tensors[:, :, :16], padded.tensors.flip(3)):
        assert_same(model.backbone(x), copies.backbone(x))


def test_a_batch_in_another_type_has_its_sizes():
    model = detector()
    padded, _ = model.transform(images(), None)
    model.float()
    narrow = padded.tensors.float()
    with nl.real_positions(padded.image_sizes, narrow.shape[2:]):
        wanted = model.backbone(narrow.flip(0).flip(0))
    plain = model.backbone(narrow + 1)
    assert_same(model.backbone(narrow), wanted)
    assert not torch.equal(plain, model.backbone(narrow))


def test_batches_that_are_gone_are_forgotten():
    model = detector()
    for _ in range(3):
        model.transform(images(), None)
    assert len(detectors._padded) <= 2


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_a_backbone_in_checkpoints_is_run_again_with_its_sizes(whole, reentrant):
    class Again(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return checkpoint(self.module, x.requires_grad_(), use_reentrant=reentrant)

    found, batch = [], images()
    model = detector().train()
    for checkpointed in (False, True):
        module = copy.deepcopy(model)
        if checkpointed and whole:
            module.backbone = Again(module.backbone)
        elif checkpointed:
            module.backbone[0] = Again(module.backbone[0])
        maps, _ = module(batch)
        maps.square().sum().backward()
        found.append([parameter.grad for parameter in module.parameters()])
    assert_near(*found)


def test_threads_share_a_detector():
    model = detector()
    batches = [images(), images()[::-1]]
    wanted = [model(batch)[0] for batch in batches]
    barrier, errors = threading.Barrier(2, timeout=30), []
    # Both have padded their batch before either backbone runs, and both backbones run before either ends.
    model.transform.register_forward_hook(lambda *_: barrier.wait() * 0 or None)
    model.backbone.register_forward_pre_hook(lambda *_: barrier.wait() * 0 or None)

    def run(number):
        try:
            for _ in range(3):
                assert_same(model(batches[number])[0], wanted[number])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert masks.KNOWN_SIZES.current() is None


def test_gradients_by_functional_calls():
    model, batch = detector(), images()
    weights = dict(model.named_parameters())
    loss = lambda weights: torch.func.functional_call(model, weights, (batch,))[0].square().sum()  # noqa: E731
    assert_near(
        list(torch.func.grad(loss)(weights).values()),
        torch.autograd.grad(loss(weights), list(weights.values())),
    )


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
    block.register_forward_pre_hook(
        lambda module, inputs: seen.append(masks.KNOWN_SIZES.current().sizes.tolist())
    )
    found = model.eval()([torch.rand(3, 60, 40), torch.rand(3, 40, 60)])
    assert len(found) == 2
    assert seen == [[[96, 64], [64, 96]]]
