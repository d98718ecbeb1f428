import sys

import pytest
import torch
from PIL import Image

from nonlocalnn._names import SPLITS
from nonlocalnn.data.folder_files import divide, split_of
from nonlocalnn.data.image_folders import load_image_folder
from nonlocalnn.data.recognition import recognised_data
from tolerances import assert_near, assert_same

# Of ant/00.png to ant/59.png and bee/00.png to bee/59.png.
GOLDEN_SIZES = {"train": 101, "validation": 10, "test": 9}
GOLDEN_TEST = {
    "ant/15.png",
    "ant/38.png",
    "ant/42.png",
    "ant/45.png",
    "ant/50.png",
    "ant/53.png",
    "ant/59.png",
    "bee/49.png",
    "bee/55.png",
}


def save_image(path, value=100, size=(7, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def make_splits(root, classes=("cat", "dog"), count=2):
    for split in SPLITS:
        for name in classes:
            for number in range(count):
                save_image(root / split / name / f"{number}.png")


def make_classes(root, count=60):
    for name in ("ant", "bee"):
        for number in range(count):
            save_image(root / name / f"{number:02}.png")


@pytest.mark.parametrize("split", SPLITS)
def test_split_folders_are_taken_as_they_lie(tmp_path, split):
    make_splits(tmp_path, classes=("dog", "cat", "eel"))
    dataset = load_image_folder(tmp_path, split)
    assert dataset.classes == ("cat", "dog", "eel")
    assert dataset.targets == [0, 0, 1, 1, 2, 2]
    assert dataset.sample_id(3) == str(tmp_path / split / "dog" / "1.png")
    assert (dataset.channels, dataset.image_size) == (3, (224, 224))
    image, target = dataset[3]
    assert_near(image, torch.full((3, 224, 224), 100 / 255))
    assert target == 1


@pytest.mark.parametrize("name", ["val", "valid"])
def test_validation_may_be_called_otherwise(tmp_path, name):
    make_splits(tmp_path)
    (tmp_path / "validation").rename(tmp_path / name)
    dataset = load_image_folder(tmp_path, "validation")
    assert dataset.sample_id(0) == str(tmp_path / name / "cat" / "0.png")
    assert recognised_data(tmp_path) == "images"
    assert len(load_image_folder(tmp_path, "train")) == 4
    # Of two of them one is taken, and the other said.
    make_splits(tmp_path)
    with pytest.warns(UserWarning, match=rf"passed over.* first .*{name}$"):
        assert "/validation/" in load_image_folder(tmp_path, "validation").sample_id(0)


def test_valid_is_a_class_where_nothing_is_called_train(tmp_path):
    for name in ("valid", "invalid"):
        for number in range(20):
            save_image(tmp_path / name / f"{number}.png")
    assert load_image_folder(tmp_path, "train").classes == ("invalid", "valid")


def test_without_split_folders_the_paths_decide(tmp_path):
    make_classes(tmp_path)
    datasets = {split: load_image_folder(tmp_path, split) for split in SPLITS}
    sizes = {split: len(dataset) for split, dataset in datasets.items()}
    assert sizes == GOLDEN_SIZES
    names = {
        split: {dataset.sample_id(i).removeprefix(f"{tmp_path}/") for i in range(len(dataset))}
        for split, dataset in datasets.items()
    }
    assert set.union(*names.values()) == {f"{name}/{i:02}.png" for name in ("ant", "bee") for i in range(60)}
    assert sum(map(len, names.values())) == 120
    assert names["test"] == GOLDEN_TEST
    assert all(dataset.classes == ("ant", "bee") for dataset in datasets.values())


def test_a_file_keeps_its_split_when_others_come(tmp_path):
    make_classes(tmp_path)
    before = load_image_folder(tmp_path, "test")
    before = {before.sample_id(i) for i in range(len(before))}
    save_image(tmp_path / "ant" / "another.png")
    save_image(tmp_path / "cow" / "1.png")
    after = load_image_folder(tmp_path, "test")
    assert before <= {after.sample_id(i) for i in range(len(after))}


@pytest.mark.parametrize("number", range(1, 30))
def test_each_class_of_three_files_has_one_in_every_split(number, tmp_path):
    files = [
        (tmp_path / name / f"{each}.png", target)
        for target, name in enumerate(("ant", "bee"))
        for each in range(number if target else 40)
    ]
    divided = divide(files, tmp_path)
    assert sorted(file for some in divided.values() for file in some) == sorted(files)
    of_bees = {split: [path for path, target in some if target] for split, some in divided.items()}
    if number >= 3:
        assert min(map(len, of_bees.values())) >= 1
    # No more are moved than are needed for that, and of the other class none.
    own = {
        split: [f for f in files if split_of(f[0].relative_to(tmp_path).as_posix()) == split]
        for split in SPLITS
    }
    missing = sum(not any(target for _, target in some) for some in own.values())
    moved = sum(file not in own[split] for split, some in divided.items() for file in some)
    assert moved == (missing if number >= 3 else 0)
    assert divided == divide(files, tmp_path)


def test_split_of_takes_any_file_name():
    assert split_of("cat/\udcff.png") in SPLITS
    counts = [sum(split_of(f"cat/{i}.png") == split for i in range(2000)) for split in SPLITS]
    assert abs(counts[0] - 1600) < 80
    assert abs(counts[1] - 200) < 60
    assert abs(counts[2] - 200) < 60


def test_hidden_files_are_ignored_and_others_named(tmp_path):
    make_splits(tmp_path)
    save_image(tmp_path / "train" / "cat" / ".hidden.png")
    save_image(tmp_path / "train" / ".cache" / "1.png")
    save_image(tmp_path / "train" / "cat" / "deeper" / "1.png")
    save_image(tmp_path / "train" / "loose.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("a cat")
    save_image(tmp_path / "train" / "cat" / "Z.PNG")
    (tmp_path / "train" / "cat" / "Thumbs.db").touch()
    (tmp_path / "train" / "cat" / "5.HEIC").touch()
    with pytest.warns(UserWarning, match="passed over") as caught:
        dataset = load_image_folder(tmp_path, "train")
    (warning,) = caught
    assert str(warning.message).startswith(f"4 entries of {tmp_path} are passed over, not being images")
    for named in (".png (1)", ".heic (1)", ".txt (1)", "folders (1)"):
        assert named in str(warning.message)
    assert dataset.classes == ("cat", "dog")
    names = [dataset.sample_id(i).rsplit("/", 1)[1] for i in range(len(dataset))]
    assert names == ["0.png", "1.png", "Z.PNG", "0.png", "1.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_size_channels_and_augmentation(tmp_path, channels):
    make_splits(tmp_path)
    arguments = {"image_size": (28, 42), "channels": channels}
    plain = load_image_folder(tmp_path, "train", **arguments)
    augmented = load_image_folder(tmp_path, "train", augment=True, **arguments)
    torch.manual_seed(2)
    images = [augmented[0][0] for _ in range(8)]
    torch.manual_seed(2)
    assert_same([augmented[0][0] for _ in range(8)], images)
    assert all(image.shape == (channels, 28, 42) for image in images)
    assert any(not torch.equal(image, plain[0][0]) for image in images)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir must be a folder of images; there is no folder"):
        load_image_folder(tmp_path / "nothing", "train")
    save_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="data_dir must be a folder of images"):
        load_image_folder(tmp_path / "a.png", "train")


def test_no_class_folder(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=f"{tmp_path} must hold one folder per class; .* no folder: make them, or"
    ):
        load_image_folder(tmp_path, "train")


@pytest.mark.parametrize("make", [make_splits, make_classes])
def test_an_empty_class_folder_is_named(tmp_path, make):
    make(tmp_path)
    bases = [tmp_path / split for split in SPLITS] if make is make_splits else [tmp_path]
    for base in bases:
        (base / "empty").mkdir()
    with pytest.raises(ValueError, match=f"the class folder {bases[0] / 'empty'} holds no image"):
        load_image_folder(tmp_path, "train")


def test_splits_with_different_classes(tmp_path):
    make_splits(tmp_path)
    save_image(tmp_path / "train" / "ape" / "1.png")
    save_image(tmp_path / "test" / "fox" / "1.png")
    save_image(tmp_path / "validation" / "ape" / "1.png")
    with pytest.raises(
        ValueError, match=r"same class folders; only in 'train': 'ape'; only in 'test': 'fox'"
    ):
        load_image_folder(tmp_path, "train")


def test_a_missing_split_folder(tmp_path):
    save_image(tmp_path / "train" / "cat" / "1.png")
    save_image(tmp_path / "more" / "cat" / "1.png")
    with pytest.raises(ValueError, match="has no folder 'validation'; it has 'more', 'train'"):
        load_image_folder(tmp_path, "validation")


def test_a_split_without_images(tmp_path):
    save_image(tmp_path / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"none of the images in .* falls to 'test'"):
        load_image_folder(tmp_path, "test")


def test_wrong_arguments(tmp_path):
    make_splits(tmp_path)
    with pytest.raises(ValueError, match=r"split must be one of .*did you mean 'test'"):
        load_image_folder(tmp_path, "tests")
    with pytest.raises(ValueError, match="channels must be one of 1, 3; got 0"):
        load_image_folder(tmp_path, "test", channels=0)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        load_image_folder(tmp_path, "test", image_size=-1)
    with pytest.raises(TypeError, match="image_size must be"):
        load_image_folder(tmp_path, "test", image_size=(1, 2, 3))


def test_augmentation_without_torchvision(tmp_path, monkeypatch):
    make_splits(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(ImportError, match="augmentation needs the library 'torchvision'"):
        load_image_folder(tmp_path, "test", augment=True)


def test_a_damaged_image_in_the_folder_is_named(tmp_path):
    make_splits(tmp_path)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"not a picture")
    dataset = load_image_folder(tmp_path, "train")
    with pytest.raises(ValueError, match=r"cannot read image .*train/cat/0\.png"):
        dataset[0]
