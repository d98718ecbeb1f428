"""Volumes in memory, as MONAI's transforms give them: they are what the files of them are."""

import numpy as np
import pytest
import torch

from data.volume_files import AFFINE, write_nifti
from nonlocalnn.data.volumes.files import read_volume
from nonlocalnn.data.volumes.items import is_item, volume_of
from nonlocalnn.data.volumes.volume import in_order_of_file
from nonlocalnn.inference import VolumeSegmenter
from tolerances import assert_near, assert_same

SIDES = (5, 7, 11)


class Placed(torch.Tensor):
    """A tensor with an affine and facts, as MONAI's MetaTensor."""


def placed(numbers, affine, **facts):
    tensor = torch.as_tensor(numbers).as_subclass(Placed)
    tensor.affine, tensor.meta = torch.as_tensor(affine), facts
    return tensor


def numbers_of(seed=0, channels=1):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(channels, *SIDES)).astype(np.float32)


def items(numbers, affine):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return {
        "dictionary": {"image": placed(numbers, affine), "label": None},
        "tensor": placed(numbers, affine),
        "facts": {"image": torch.tensor(numbers), "image_meta_dict": {"affine": affine}},
        "LPS": placed(numbers, lps, space="LPS"),
    }


@pytest.mark.parametrize("kind", ["dictionary", "tensor", "facts", "LPS"])
def test_an_item_is_the_volume_of_its_file(tmp_path, kind):
    numbers = numbers_of()
    expected = read_volume(write_nifti(tmp_path / "a.nii", numbers[0], affine=AFFINE))
    item = items(numbers, AFFINE)[kind]
    assert is_item(item)
    found = volume_of(item)
    assert (found.sides, found.axes, found.flipped) == (expected.sides, expected.axes, expected.flipped)
    assert found.is_oriented
    assert_near(torch.tensor(found.affine), torch.tensor(expected.affine))
    box = found.box((0, 0, 0), found.sides)
    assert type(box) is torch.Tensor
    assert_same(box, expected.box((0, 0, 0), expected.sides))


def test_channels_stay_together():
    numbers = numbers_of(channels=2)
    volume = volume_of(placed(numbers, AFFINE))
    assert volume.channels == 2
    for channel in range(2):
        own = volume.box((0, 0, 0), volume.sides)[channel]
        assert in_order_of_file(own, volume).tolist() == numbers[channel].tolist()


def brightest(volumes):
    """A network that finds a class where a voxel is above 0."""
    return torch.cat([-volumes, volumes], 1)


def test_labels_have_the_order_of_the_item():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.own = torch.nn.Parameter(torch.ones(()))

        def forward(self, volumes):
            return brightest(volumes) * self.own

    segmenter = VolumeSegmenter(model=Network(), classes=("dark", "bright"), sample_shape=(1, 16, 16, 16))
    numbers = numbers_of()
    expected = (numbers[0] > numbers[numbers > numbers.mean()].mean()).astype(int)
    for kind, item in items(numbers, AFFINE).items():
        labels = segmenter.labels(item)
        assert (type(labels), labels.dtype) == (torch.Tensor, torch.uint8)
        assert labels.tolist() == expected.tolist(), kind
    # A plain tensor is in the order of a volume's own axes.
    assert segmenter.labels(torch.tensor(numbers)).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="takes 1 channel; got 2"):
        segmenter.labels(placed(numbers_of(channels=2), AFFINE))


@pytest.mark.parametrize(
    ("item", "error", "says"),
    [
        ({"volume": 1, "label": 2}, ValueError, "must have 'image'; it has volume, label"),
        ({"image": numbers_of()}, TypeError, r"must be a tensor, \(C, X, Y, Z\); got ndarray"),
        ({"image": "a.nii.gz"}, TypeError, "got str"),
        ({"image": torch.zeros(1, *SIDES)}, ValueError, "must say where its voxels lie, by an affine"),
        (placed(numbers_of()[None], AFFINE), ValueError, r"one volume.*got shape \(1, 1, 5, 7, 11\)"),
        (placed(numbers_of()[0], AFFINE), ValueError, "EnsureChannelFirst"),
        (placed(numbers_of(), np.zeros((4, 4))), ValueError, "gives its voxels no place"),
    ],
)
def test_what_is_no_volume(item, error, says):
    with pytest.raises(error, match=says):
        volume_of(item)
