"""What `data check` takes for videos, and what for images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nonlocalnn.cli.data import run
from nonlocalnn.data import write_archives
from nonlocalnn.data.file_check import files_to_check


def save(path, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    for number, size in enumerate([(8, 6), (6, 8), (9, 9)]):
        save(tmp_path / "photos" / "cat" / f"{number}.png", size)
        save(tmp_path / "photos" / "dog" / f"IMG_{3 * number * number}.jpg")
    return tmp_path / "photos"


def check(capsys, *words):
    status = run(["check", *map(str, words), "--workers", "1"])
    return status, capsys.readouterr().out.splitlines()


def test_a_folder_of_images(photos, capsys):
    assert check(capsys, photos) == (0, ["6 images, 0 broken"])
    for name in ("cat/0.png", "cat/2.png"):
        content = (photos / name).read_bytes()
        (photos / name).write_bytes(content[:-30])
    status, (first, second, last) = check(capsys, photos)
    assert status == 1
    assert first.startswith(f"cannot read image {photos / 'cat/0.png'}: ")
    assert second.startswith(f"cannot read image {photos / 'cat/2.png'}: ")
    assert last == "6 images, 2 broken"


def test_folders_of_frames_stay_videos(tmp_path, photos, capsys):
    for folder in "abc":
        for number in range(4):
            save(tmp_path / "clips" / folder / f"{number}.png")
    assert check(capsys, tmp_path / "clips") == (0, ["3 videos, 0 broken"])
    (tmp_path / "clips" / "b" / "2.png").unlink()
    status, (first, last) = check(capsys, tmp_path / "clips")
    assert (status, last) == (1, "3 videos, 1 broken")
    assert "frames are missing between 1.png and 3.png" in first
    assert check(capsys, tmp_path / "clips", "--kind", "images") == (0, ["11 images, 0 broken"])
    status, lines = check(capsys, photos, "--kind", "videos")
    assert (status, lines[-1]) == (1, "2 videos, 2 broken")


def test_single_files_archives_and_what_is_not_there(tmp_path, photos, capsys):
    for split in ("train", "validation", "test"):
        save(tmp_path / "set" / split / "cat" / "1.png")
    (tmp_path / "set" / "test" / "cat" / "2.png").write_bytes(b"no picture")
    write_archives(tmp_path / "set", tmp_path / "archives")
    archive = tmp_path / "archives" / "test-000000.tar"
    missing, empty = tmp_path / "none", tmp_path / "empty"
    empty.mkdir()
    status, lines = check(capsys, missing, photos / "cat/0.png", archive, empty)
    assert status == 1
    assert lines[0] == f"there is no file or folder {missing}"
    assert lines[1] == f"the folder {empty} holds no video, no folder of frames and no image"
    assert lines[2].startswith(f"cannot read image {archive}/")
    assert lines[3] == "3 images, 2 broken, 1 not found"
    assert files_to_check(Path(photos / "dog/IMG_0.jpg"))[0][0] == "images"


def test_a_folder_of_archives(tmp_path, photos, capsys):
    write_archives(photos, tmp_path / "archives")
    assert check(capsys, tmp_path / "archives") == (0, ["6 images, 0 broken"])
