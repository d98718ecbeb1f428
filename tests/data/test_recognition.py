"""Which data set a folder is."""

import numpy as np
import pytest
from PIL import Image

from archives import pack
from nonlocalnn.data.recognition import recognised_data


@pytest.mark.parametrize(
    ("names", "data"),
    [
        (["cat/1.jpg", "dog/2.PNG"], "images"),
        (["train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg"], "images"),
        (["cat/1.gif", "dog/2.gif"], "images"),
        (["cat/1.GIF", "dog/2.GIF"], "images"),
        (["cat/1.apng", "dog/2.apng"], "images"),
        (["wave/1.mp4", "clap/2.apng", "clap/3.gif"], "images"),
        (["wave/1.mp4", "clap/2.mov"], "videos"),
        (["val/wave/1.mp4", "train/clap/2.mov", "train/clap/2.jpg"], "videos"),
        (["train.txt", "1.avi", "2.avi"], "videos"),
        (["wave/a/1.jpg", "wave/a/2.jpg", "clap/b/1.jpg"], "videos"),
        (["train/wave/a/1.jpg", "train/wave/a/2.jpg"], "videos"),
        (["training/cat/1.jpg", "testing/cat/2.jpg"], "images"),
        (["cat/1.jpg", "cat/2.jpg", "cat/cover.mp4"], "images"),
        (["cat/1.jpg", "cat/more/2.jpg", "dog/3.jpg"], "images"),
        # As many of one as of the other, and fewer than half of the images further down.
        (["cat/1.jpg", "cat/1.mp4"], "videos"),
        (["cat/1.jpg", "cat/more/2.jpg"], "images"),
        (["cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/more/4.jpg", "dog/more/5.jpg"], "images"),
    ],
)
def test_files(tmp_path, names, data):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert recognised_data(tmp_path) == data


@pytest.mark.parametrize(
    ("contents", "data"),
    [
        ({"up/1.npy": b"", "down/2.npz": b""}, "sequences"),
        ({"train/up/1.csv": b"1,2"}, "sequences"),
        ({"A_TRAIN.ts": b"# About\n@data", "A_TEST.ts": b"\xef\xbb\xbf@data"}, "sequences"),
        ({"wave/1.ts": b"G\x40\x00\x10"}, "videos"),
        ({"about.csv": b"a,b\n1,2\n", "train/1.csv": b"time,x,label\n0,1,a\n"}, "sequence-labels"),
        ({"train.csv": b"a.mp4,wave", "val.csv": b"", "a.mp4": b""}, "videos"),
        ({"cat/1.jpg": b"", "labels.csv": b"", "more.csv": b""}, "images"),
        # Only its name is that of COCO's.
        ({"cat/1.jpg": b"", "train.json": b'["cat/1.jpg"]', "annotations.json": b"{}"}, "images"),
        ({"cat/1.jpg": b"", "train.json": b'{"images": [{"id"'}, "coco"),
        ({"cat/1.jpg": b"", "features/1.npy": b"", "features/2.npy": b""}, "sequences"),
        ({"cat/1.jpg": b"", "cat/1.npy": b""}, "images"),
    ],
)
def test_files_of_numbers(tmp_path, contents, data):
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert recognised_data(tmp_path) == data


@pytest.mark.parametrize(("ending", "data"), [("png", "archives"), ("mp4", "videos")])
def test_archives(tmp_path, ending, data):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    pack(tmp_path / "train-000000.tar", [(f"a.{ending}", content), ("a.cls", b"0")])
    assert recognised_data(tmp_path) == data


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothing of images or videos"):
        recognised_data(tmp_path / "nothing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError,
        match="holds no image, no video, no sequence and no volume: it must hold a folder for each class",
    ):
        recognised_data(tmp_path)


@pytest.mark.parametrize(
    ("names", "is_too_high"),
    [
        (["photos/cat/1.jpg", "photos/dog/2.jpg"], True),
        (["photos/train/cat/1.jpg", "photos/test/dog/2.jpg"], True),
        (["clips/wave/1.mp4", "clips/clap/2.mp4", ".hidden/1.mp4"], True),
        (["Train/cat/1.jpg", "Train/dog/2.jpg"], False),
        (["clips/wave/1.mp4", "clips/clap/2.mp4", "train.txt"], False),
    ],
)
def test_a_folder_above_that_of_the_classes_is_told(tmp_path, names, is_too_high):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if is_too_high:
        with pytest.raises(ValueError, match=r"all that .* holds lies in .*(photos|clips): give that folder"):
            recognised_data(tmp_path)
    else:
        assert recognised_data(tmp_path) in ("images", "videos")


def write_stray(folder, kind):
    if kind == "array":
        np.save(folder / "features.npy", np.zeros((3, 4, 5)))
    else:
        page = Image.new("L", (4, 4))
        page.save(folder / "scan.tif", save_all=True, append_images=[page])


@pytest.mark.parametrize("kind", ["array", "pages"])
def test_a_stray_volume_among_photographs(tmp_path, kind):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_stray(tmp_path / "cat", kind)
    assert recognised_data(tmp_path) == "images"


@pytest.mark.parametrize("with_pictures", [False, True])
def test_volumes_with_pictures_and_tables(tmp_path, with_pictures):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_stray(tmp_path / name, "array")
        if with_pictures:
            (tmp_path / name / "preview.png").touch()
        for number in range(3):
            (tmp_path / name / f"{number}.csv").touch()
    assert recognised_data(tmp_path) == "volumes"


@pytest.mark.parametrize("images", ["images/train", "train/images"])
def test_yolo_is_named(tmp_path, images):
    for number in range(3):
        for path in (f"{images}/{number}.jpg", f"{images.replace('images', 'labels')}/{number}.txt"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    with pytest.raises(ValueError, match=r"marks as YOLO writes them, such as .*0.txt, which are not read"):
        recognised_data(tmp_path)


def test_endings_that_are_not_read_are_named(tmp_path):
    for name in ("a/1.tsv", "a/2.TSV", "b/3.arff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"endings that are there are not read: \.tsv \(2\), \.arff \(1\)"):
        recognised_data(tmp_path)


def test_how_archives_are_called_is_told(tmp_path):
    (tmp_path / "train.tar").touch()
    with pytest.raises(ValueError, match=r"\.tar \(1\); archives must be called train-000000\.tar"):
        recognised_data(tmp_path)
