import pickle
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from nonlocalnn.data import LabelledImages, list_datasets, load_dataset
from tolerances import assert_near, assert_same


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "validation", "test"):
        for name, colour in (("dark", 40), ("light", 200)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.new("RGB", (14, 17), (colour, colour, 10 * number))
                image.save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_the_names():
    others = ["digits", "mnist", "fashion-mnist", "images", "archives", "cue", "cue-sequence", "sequences"]
    assert list_datasets() == [*others, "volumes", "videos", "kinetics", "ucf101", "hmdb51", "charades"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("digitz", {}, r"name must be one of 'digits', .*; got 'digitz' \(did you mean 'digits'\?\)"),
        (
            "digits",
            {"data_dir": "data"},
            "data_dir applies to sets of files only, and not to 'digits': leave it out",
        ),
        ("digits", {"channels": 1}, "channels applies to 'images' and 'archives' only, and not to 'digits'"),
        ("mnist", {"channels": 3}, "channels applies to 'images' and 'archives' only"),
        ("cue", {"data_dir": "data"}, "data_dir applies to sets of files only, and not to 'cue'"),
        ("cue", {"channels": 3}, "channels applies to 'images' and 'archives' only"),
        ("cue-sequence", {"image_size": 28}, "'cue-sequence' has no frames and no image_size"),
        ("digits", {"frames": 8}, "frames applies to videos and 'cue' only, and not to 'digits'"),
        ("cue", {"views": 30}, "views applies to videos only"),
        ("videos", {"channels": 3}, "channels applies to 'images' and 'archives' only"),
        ("videos", {}, "'videos' needs data_dir"),
        ("videos", {"views": 30, "augment": True}, "views has no effect with augment=True"),
        ("videos", {"views": 1, "augment": True}, "views has no effect with augment=True"),
        ("videos", {"decoder": "avpy", "data_dir": "."}, "decoder must be one of 'pyav', 'torchcodec'"),
        ("videos", {"image_size": 0, "data_dir": "."}, "image_size must be a whole number of at least 1"),
        ("images", {}, "'images' needs data_dir"),
        ("archives", {}, "'archives' needs data_dir: the folder that holds the tar archives"),
        ("images", {"data_dir": ".", "channels": 2}, "channels must be one of 1, 3; got 2"),
    ],
)
def test_a_wrong_argument(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, "train", **arguments)


@pytest.mark.parametrize("name", list_datasets())
def test_a_wrong_split(name):
    with pytest.raises(
        ValueError, match=r"split must be one of .*got 'validaton' \(did you mean 'validation'"
    ):
        load_dataset(name, "validaton")


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_images(folder, channels):
    dataset = load_dataset("images", "validation", data_dir=folder, image_size=(11, 13), channels=channels)
    assert isinstance(dataset, LabelledImages)
    assert dataset.channels == (3 if channels is None else channels)
    assert dataset.classes == ("dark", "light")
    assert dataset.image_size == (11, 13)
    image, target = dataset[4]
    assert image.shape == (dataset.channels, 11, 13)
    assert target == 1


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", ["digits", "images"])
def test_pickling_keeps_everything(folder, name, augment):
    data_dir = folder if name == "images" else None
    dataset = load_dataset(name, "test", data_dir=data_dir, image_size=28, augment=augment)
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.classes, copy.targets, copy.image_size) == (dataset.classes, dataset.targets, (28, 28))
    assert copy.sample_id(3) == dataset.sample_id(3)
    torch.manual_seed(5)
    expected = dataset[3]
    torch.manual_seed(5)
    assert_same(copy[3], expected)


@pytest.mark.slow
def test_a_spawned_worker_reads_the_same():
    dataset = load_dataset("digits", "validation")
    loader = DataLoader(dataset, batch_size=64, num_workers=1, multiprocessing_context="spawn")
    images = torch.cat([images for images, _ in loader])
    assert_near(images, torch.stack([image for image, _ in dataset]))


@pytest.mark.slow
def test_the_import_is_light():
    code = (
        "import sys, nonlocalnn.data\n"
        "print([name for name in ('torchvision', 'sklearn', 'PIL', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
