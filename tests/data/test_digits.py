import hashlib
import sys
from collections import Counter

import pytest
import torch
from sklearn import datasets

from nonlocalnn.data.digits import load_digits, split_indices
from tolerances import assert_near, assert_same

SPLITS = ("train", "validation", "test")


def indices_of(dataset):
    return [int(dataset.sample_id(i).removeprefix("digits/")) for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("split", "size", "digest"),
    [
        ("train", 1266, "7bb2edaa047aef2adbc7ce7dc4aceeb368fe721ab3e8565e2ec08181fecc6c07"),
        ("validation", 178, "9db2eaeaa95a272923e4651c89f1449a8a289e868c0d2c35d4593e062faed63f"),
        ("test", 353, "8bdf2bc39058bad6b05f87f01b55cb764d8efb952467e9875034bef11efaa4b7"),
    ],
)
def test_the_split_is_the_published_one(split, size, digest):
    indices = indices_of(load_digits(split))
    assert len(indices) == size
    assert hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest() == digest


def test_the_splits_are_disjoint_and_cover_everything():
    indices = [index for split in SPLITS for index in indices_of(load_digits(split))]
    assert sorted(indices) == list(range(1797))


@pytest.mark.parametrize(("split", "share"), [("train", 0.7), ("validation", 0.1), ("test", 0.2)])
def test_each_class_is_divided_alike(split, share):
    total = Counter(datasets.load_digits().target.tolist())
    for target, count in Counter(load_digits(split).targets).items():
        assert abs(count - share * total[target]) < 3


def test_split_indices_counts_within_each_class():
    targets = [0, 1] * 10
    assert split_indices(targets, "validation") == [14, 15]
    assert split_indices(targets, "test") == [16, 17, 18, 19]


def test_at_their_own_size_the_images_are_the_originals():
    dataset = load_digits("validation", image_size=8)
    source = datasets.load_digits()
    for i, index in enumerate(indices_of(dataset)):
        image, target = dataset[i]
        assert target == source.target[index]
        assert_near(image[0], torch.from_numpy(source.images[index]).float() / 16)


@pytest.mark.parametrize(
    ("image_size", "shape"), [(None, (1, 28, 28)), (20, (1, 20, 20)), ((5, 13), (1, 5, 13))]
)
@pytest.mark.parametrize("augment", [False, True])
def test_shape_and_range(image_size, shape, augment):
    dataset = load_digits("test", image_size=image_size, augment=augment)
    images = torch.stack([image for image, _ in dataset])
    assert images.shape == (353, *shape)
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert 0.9 < images.max() <= 1
    assert (dataset.channels, *dataset.image_size) == shape
    assert dataset.classes == tuple("0123456789")


def test_augmentation_is_seeded_and_changes_pixels():
    plain, augmented = load_digits("train"), load_digits("train", augment=True)
    torch.manual_seed(7)
    first = augmented[11][0]
    torch.manual_seed(7)
    assert_same(augmented[11][0], first)
    assert not torch.equal(first, plain[11][0])
    assert torch.equal(plain[11][0], plain[11][0])


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"split must be one of 'train', 'validation', 'test'; got 'valid'"):
        load_digits("valid")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        load_digits("train", image_size=0)
    with pytest.raises(TypeError, match="image_size must be"):
        load_digits("train", image_size="28")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"'digits' needs the library 'scikit-learn'.*nonlocalnn\[data\]"):
        load_digits("train")


def test_augmentation_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(ImportError, match="augmentation needs the library 'torchvision'"):
        load_digits("train", augment=True)
