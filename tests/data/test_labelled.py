import sys

import pytest
import torch

from nonlocalnn.data.labelled import (
    InMemoryImages,
    LabelledImages,
    augmentation,
    check_image_size,
    resize_image,
)
from tolerances import assert_near, assert_same


def small_set(transform=None):
    return InMemoryImages(
        torch.arange(3 * 2 * 5 * 7, dtype=torch.uint8).reshape(3, 2, 5, 7),
        white=210,
        ids=["set/4", "set/5", "set/9"],
        classes=["a", "b"],
        image_size=(5, 7),
        targets=[0, 1, 1],
        transform=transform,
    )


def test_the_contract():
    dataset = small_set()
    assert (dataset.classes, dataset.channels, dataset.image_size) == (("a", "b"), 2, (5, 7))
    assert len(dataset) == 3
    assert dataset.targets == [0, 1, 1]
    assert dataset.sample_id(2) == "set/9"
    image, target = dataset[1]
    assert (image.dtype, type(target), target) == (torch.float32, int, 1)
    assert_near(image, torch.arange(70, 140).reshape(2, 5, 7) / 210)


def test_iteration_ends():
    assert [target for _, target in small_set()] == [0, 1, 1]
    with pytest.raises(IndexError):
        small_set()[3]


def test_what_a_transform_overshoots_is_clamped():
    image, _ = small_set(transform=lambda image: 6 * image - 2.5)[1]
    expected = 6 * (torch.arange(70, 140).reshape(2, 5, 7) / 210) - 2.5
    assert expected.min() < 0
    assert expected.max() > 1
    torch.testing.assert_close(image, expected.clamp(0, 1))


def test_a_subclass_must_say_how_to_read():
    with pytest.raises(TypeError, match="abstract"):
        LabelledImages(classes=["a"], channels=1, image_size=(5, 7), targets=[0])


@pytest.mark.parametrize(("given", "expected"), [(5, (5, 5)), ((5, 7), (5, 7)), ([7, 5], (7, 5))])
def test_image_size(given, expected):
    assert check_image_size(given) == expected


@pytest.mark.parametrize("given", [2.5, "28", (28,), (28, 28, 3), True, (28, None)])
def test_image_size_of_a_wrong_type(given):
    with pytest.raises(TypeError, match=r"image_size must be an integer or a pair \(height, width\); got"):
        check_image_size(given)


@pytest.mark.parametrize("given", [0, (28, -1)])
def test_image_size_too_small(given):
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel a side"):
        check_image_size(given)


def test_enlarging_interpolates_between_pixel_centres():
    image = torch.tensor([[[0.0, 1.0]]])
    expected = torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]).expand(1, 3, 4)
    assert_near(resize_image(image, (3, 4)), expected)


def test_shrinking_averages():
    stripes = torch.tensor([0.0, 1.0]).repeat(56).expand(1, 5, 112)
    shrunk = resize_image(stripes, (5, 7))[..., 1:-1]
    torch.testing.assert_close(shrunk, torch.full_like(shrunk, 0.5), rtol=0, atol=0.01)


@pytest.mark.parametrize("kind", ["characters", "objects"])
def test_augmentation_follows_torchs_seed_and_nothing_else(kind):
    change = augmentation(kind, (28, 42))
    image = torch.rand(3, 28, 42)
    torch.manual_seed(3)
    first, second = change(image), change(image)
    torch.manual_seed(3)
    assert_same(change(image), first)
    assert not torch.equal(first, second)
    assert first.shape == image.shape


def test_characters_are_never_mirrored_and_stay_near():
    # A dot right of the middle: mirroring would put it on the left.
    image = torch.zeros(1, 28, 42)
    image[0, 12:16, 30:34] = 1
    change = augmentation("characters", image.shape[-2:])
    torch.manual_seed(0)
    for _ in range(50):
        columns = (change(image)[0].sum(dim=0) > 0.5).nonzero()
        assert columns.min() > 24
        assert columns.max() < 41


def test_objects_are_mirrored_half_of_the_time_and_shifted_by_a_fourteenth():
    image = torch.zeros(1, 28, 42)
    image[0, 14, 30] = 1
    change = augmentation("objects", image.shape[-2:])
    torch.manual_seed(0)
    spots = torch.cat([change(image)[0].nonzero() for _ in range(400)])
    rows, columns = spots.unbind(dim=1)
    mirrored = columns < 21
    assert 150 < mirrored.sum() < 250
    assert set(rows.tolist()) == set(range(12, 17))
    assert set(columns[~mirrored].tolist()) == set(range(27, 34))
    assert set(columns[mirrored].tolist()) == set(range(8, 15))


def test_an_unknown_augmentation():
    with pytest.raises(ValueError, match=r"kind must be one of .*got 'object' \(did you mean 'objects'\?\)"):
        augmentation("object", (28, 28))


def test_augmentation_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(
        ImportError, match=r"augmentation needs the library 'torchvision'.*nonlocalnn\[data\]"
    ):
        augmentation("characters", (28, 28))
