import gzip
import hashlib
import shutil
import struct
import sys

import pytest
import torch

from nonlocalnn.data import torchvision_sets
from nonlocalnn.data.torchvision_sets import (
    DEBIAN_FASHION_MNIST,
    load_torchvision_set,
    read_idx,
    split_indices,
)
from tolerances import assert_near, assert_same

SPLITS = ("train", "validation", "test")
SIZES = {"train": 60_000, "t10k": 10_000}


def idx_bytes(values):
    header = bytes([0, 0, 8, values.dim()]) + struct.pack(f">{values.dim()}I", *values.shape)
    return header + values.contiguous().numpy().tobytes()


def expected_pixel(index):
    return index % 251


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The four files, with image i filled with i mod 251 and labelled i mod 10; the test files compressed."""
    folder = tmp_path_factory.mktemp("idx")
    for source, size in SIZES.items():
        index = torch.arange(size)
        images = expected_pixel(index).to(torch.uint8)[:, None, None].expand(size, 28, 28)
        for kind, values in (("images-idx3", images), ("labels-idx1", (index % 10).to(torch.uint8))):
            content, path = idx_bytes(values), folder / f"{source}-{kind}-ubyte"
            if source == "t10k":
                path.with_name(f"{path.name}.gz").write_bytes(
                    gzip.compress(content, compresslevel=1, mtime=0)
                )
            else:
                path.write_bytes(content)
    return folder


@pytest.fixture
def no_download(monkeypatch):
    def fail(root, download):
        raise RuntimeError("Error downloading\n  every mirror")

    monkeypatch.setattr("torchvision.datasets.MNIST", fail)
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fail)


@pytest.mark.parametrize(
    ("split", "size", "digest"),
    [
        ("train", 55_000, "afd6781fa719c54d55d44fef82611df84c2173cae87aaaf0eff7f43489094558"),
        ("validation", 5_000, "19dafe4f5e1c8c75a61053a30dcff67f822863ef5a35a113bff21317bf90018f"),
        ("test", 10_000, "1899ec16689e0477ac35484f5cacefc22e284a929c103400ef4f1638739aba08"),
    ],
)
def test_the_split_is_the_published_one(split, size, digest):
    indices = split_indices(split)
    assert len(indices) == size
    assert hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest() == digest


def test_train_and_validation_are_disjoint_and_cover_the_training_file():
    assert sorted(split_indices("train") + split_indices("validation")) == list(range(60_000))


def test_the_split_does_not_touch_torchs_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    split_indices("train")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("split", SPLITS)
def test_each_image_is_the_one_that_its_id_names(folder, name, split):
    dataset = load_torchvision_set(name, split, data_dir=folder)
    assert (dataset.channels, dataset.image_size, len(dataset.classes)) == (1, (28, 28), 10)
    source = "test" if split == "test" else "train"
    for i in range(0, len(dataset), 997):
        index = int(dataset.sample_id(i).removeprefix(f"{name}/{source}/"))
        image, target = dataset[i]
        assert target == index % 10
        assert_near(image, torch.full((1, 28, 28), expected_pixel(index) / 255))


@pytest.mark.parametrize(("name", "below"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_torchvisions_layout(folder, tmp_path, name, below):
    (tmp_path / below).mkdir()
    (tmp_path / below / "raw").symlink_to(folder)
    assert len(load_torchvision_set(name, "test", data_dir=tmp_path)) == 10_000


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_shape_range_and_augmentation(folder, name):
    arguments = {"data_dir": folder, "image_size": (20, 30)}
    plain = load_torchvision_set(name, "test", **arguments)
    augmented = load_torchvision_set(name, "test", augment=True, **arguments)
    torch.manual_seed(1)
    images = torch.stack([augmented[i][0] for i in range(200, 250)])
    torch.manual_seed(1)
    assert_same(torch.stack([augmented[i][0] for i in range(200, 250)]), images)
    assert images.shape == (50, 1, 20, 30)
    assert images.min() == 0  # the black that a shift leaves behind
    assert images.max() <= 1
    assert not torch.equal(images, torch.stack([plain[i][0] for i in range(200, 250)]))


def test_missing_files_are_downloaded_to_data(folder, tmp_path, monkeypatch):
    def download(root, download):
        assert download
        shutil.copytree(folder, f"{root}/MNIST/raw", copy_function=lambda a, b: shutil.os.symlink(a, b))

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    monkeypatch.chdir(tmp_path)
    assert len(load_torchvision_set("mnist", "test")) == 10_000
    assert (tmp_path / "data" / "MNIST" / "raw").is_dir()


@pytest.mark.usefixtures("no_download")
def test_a_failed_download_says_which_files_go_where(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_torchvision_set("mnist", "train", data_dir=tmp_path)
    assert str(caught.value) == (
        f"'mnist' is not in {tmp_path}, and the download failed (Error downloading every mirror): put "
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz into {tmp_path / 'MNIST' / 'raw'}"
    )


def test_a_download_that_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", lambda root, download: None)
    with pytest.raises(FileNotFoundError, match="the download left no such files there"):
        load_torchvision_set("fashion-mnist", "train", data_dir=tmp_path)


def test_without_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="downloading 'mnist' needs the library 'torchvision'"):
        load_torchvision_set("mnist", "train", data_dir=tmp_path)
    with pytest.raises(ImportError, match="reading IDX files needs the library 'torchvision'"):
        read_idx(tmp_path / "labels", (3,))


@pytest.mark.usefixtures("no_download")
def test_debians_folder_is_looked_in_by_default_only(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "DEBIAN_FASHION_MNIST", folder)
    monkeypatch.chdir(tmp_path)
    assert len(load_torchvision_set("fashion-mnist", "test")) == 10_000
    with pytest.raises(FileNotFoundError):
        load_torchvision_set("fashion-mnist", "test", data_dir="elsewhere")
    with pytest.raises(FileNotFoundError):
        load_torchvision_set("mnist", "test")


def test_nothing_is_downloaded_into_debians_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "DEBIAN_FASHION_MNIST", tmp_path)
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", lambda root, download: pytest.fail("downloaded"))
    with pytest.raises(
        FileNotFoundError, match="install Debian's package dataset-fashion-mnist, or give another"
    ):
        load_torchvision_set("fashion-mnist", "test", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([10] * 10, "must hold labels from 0 to 9; it holds 10"),
        ([9, 2, 1, 1, 6, 1, 4, 6, 5, 7], "belongs to 'fashion-mnist', not to 'mnist'"),
    ],
)
def test_labels_of_something_else(folder, tmp_path, labels, message):
    name = "t10k-images-idx3-ubyte.gz"
    (tmp_path / name).symlink_to(folder / name)
    values = torch.zeros(10_000, dtype=torch.uint8)
    values[:10] = torch.tensor(labels)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(values))
    with pytest.raises(ValueError, match=message):
        load_torchvision_set("mnist", "test", data_dir=tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["plain", "gz"])
def test_read_idx(tmp_path, suffix):
    values = torch.arange(2 * 3 * 5, dtype=torch.uint8).reshape(2, 3, 5)
    path = tmp_path / f"values{suffix}"
    path.write_bytes(gzip.compress(idx_bytes(values), mtime=0) if suffix else idx_bytes(values))
    assert torch.equal(read_idx(path, (2, 3, 5)), values)


WHOLE = idx_bytes(torch.arange(30, dtype=torch.uint8).reshape(2, 3, 5))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "cannot read it"),
        ("a", b"<html>", r"cannot read it \(AssertionError\): delete it and fetch it again"),
        ("a", b"\0\0\x0a" + WHOLE[3:], "cannot read it"),
        ("a", b"\0\0\x09" + WHOLE[3:], r"unsigned bytes of shape \(2, 3, 5\); it holds torch\.int8"),
        ("a", WHOLE[:9], "cannot read it"),
        ("a", WHOLE[:16], "cannot read it"),
        ("a", WHOLE[:-1], "cannot read it"),
        ("a", WHOLE + b"\0", "cannot read it"),
        ("a", WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "cannot read it"),
        (
            "a",
            WHOLE[:7] + b"\3" + WHOLE[8:11] + b"\2" + WHOLE[12:],
            r"it holds torch.uint8 of shape \(3, 2, 5\)",
        ),
        ("a.gz", WHOLE, "cannot read it .*: delete it and fetch it again"),
        ("a.gz", gzip.compress(WHOLE, mtime=0)[:-9], "cannot read it"),
        ("a.gz", gzip.compress(WHOLE, mtime=0)[:12] + b"\xff" * 20, "cannot read it"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name} must .*{message}"):
        read_idx(tmp_path / name, (2, 3, 5))


def test_wrong_arguments(folder):
    with pytest.raises(ValueError, match=r"name must be one of 'mnist', 'fashion-mnist'; got 'minst'"):
        load_torchvision_set("minst", "train")
    with pytest.raises(ValueError, match=r"split must be one of .*got 'training' \(did you mean 'train'"):
        load_torchvision_set("mnist", "training")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        load_torchvision_set("mnist", "train", data_dir=folder, image_size=0)
    with pytest.raises(TypeError, match="image_size must be"):
        load_torchvision_set("mnist", "train", data_dir=folder, image_size=28.0)


def test_augmentation_without_torchvision(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(ImportError, match="augmentation needs the library 'torchvision'"):
        load_torchvision_set("mnist", "test", data_dir=folder, augment=True)


def test_the_real_fashion_mnist_from_debian():
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    dataset = load_torchvision_set("fashion-mnist", "test", data_dir=DEBIAN_FASHION_MNIST)
    assert dataset.targets[:10] == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert [dataset.targets.count(target) for target in range(10)] == [1000] * 10
    assert dataset.classes[dataset[0][1]] == "Ankle boot"
    assert dataset[0][0].max() > 0.9
    with pytest.raises(ValueError, match="belongs to 'fashion-mnist', not to 'mnist'"):
        load_torchvision_set("mnist", "train", data_dir=DEBIAN_FASHION_MNIST)
