"""What is said of folders of classes and splits that are not as they must be."""

import os
import re
import sys
import unicodedata
import warnings

import pytest
from PIL import Image

from nonlocalnn.data.folder_files import split_of
from nonlocalnn.data.image_folders import find_images, load_image_folder
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.data.video.lists import load_video_folder


def save(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (7, 5)).save(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("load", [lambda root: load_image_folder(root, "train"), load_video_folder])
def test_a_class_folder_whose_name_is_no_utf_8(tmp_path, load):
    save(tmp_path, "rot/1.png", os.fsdecode(b"gr\xfcn") + "/1.png")
    with pytest.raises(ValueError, match=re.escape(r"not UTF-8, b'gr\xfcn': rename it")) as error:
        load(tmp_path)
    assert r"mv $'gr\xfcn' 'grün'" in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_missing_split_names_ways_out(tmp_path):
    save(tmp_path, "train/cat/1.png", "val/cat/1.png")
    with pytest.raises(
        ValueError, match="has no folder 'test'; it has 'train', 'val': make it, with"
    ) as error:
        load_image_folder(tmp_path, "test")
    assert "or ask for another split; or join the class folders" in str(error.value)


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["Train/cat/1.png", "Val/cat/2.png", "Test/cat/3.png"], "Test"),
        (["pets/cat/1.png", "pets/dog/2.png"], "pets"),
        (["cat/2019/1.png", "dog/2.png"], "cat"),
    ],
    ids=["splits", "a folder too far up", "folders in classes"],
)
def test_images_that_lie_a_folder_too_deep(tmp_path, names, folder):
    save(tmp_path, *names)
    with pytest.raises(
        ValueError, match=rf"{folder} holds no image .* folders in it do, such as .*\.png"
    ) as error:
        load_image_folder(tmp_path, "train")
    for says in (
        "move files up into it",
        f"give {tmp_path / folder} as data_dir",
        "train, validation (or val)",
    ):
        assert says in str(error.value)


def test_splits_in_capitals_are_images(tmp_path):
    save(tmp_path, "Train/cat/1.png", "Val/cat/2.png", "Test/cat/3.png")
    assert recognised_data(tmp_path) == "images"


def test_links_to_folders_are_followed_and_lead_in_no_circle(tmp_path):
    save(tmp_path / "far", "cat/1.png", "cat/deep/2.png", "dog/3.png")
    near = tmp_path / "near"
    near.mkdir()
    for name in ("cat", "dog"):
        (near / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far/cat/back").symlink_to(near)
    (tmp_path / "far/dog/up").symlink_to(tmp_path)
    (near / ".hidden").symlink_to(tmp_path / "far")
    assert recognised_data(near) == "images"
    found = [str(path.relative_to(near)) for path in find_images([near])]
    assert found == ["cat/1.png", "cat/deep/2.png", "dog/3.png"]


@pytest.mark.parametrize(
    "names",
    [("Cat", "cat"), ("cat ", "cat"), tuple(unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))],
)
def test_classes_that_are_spelt_alike_are_told(tmp_path, names):
    save(tmp_path, *(f"{name}/{number}.png" for name in names for number in range(4)))
    with pytest.warns(UserWarning, match=f"classes '{names[0]}' and '{names[1]}'|classes '{names[1]}' and"):
        load_image_folder(tmp_path, "train")


def test_letters_are_classes(tmp_path):
    save(tmp_path, *(f"{name}/{number}.png" for name in "aA" for number in range(4)))
    with warnings.catch_warnings(action="error"):
        assert load_image_folder(tmp_path, "train").classes == ("A", "a")


def test_accents_in_one_and_in_two_between_splits(tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        save(tmp_path, f"{split}/{unicodedata.normalize(form, 'Käse')}/1.png")
    with pytest.raises(
        ValueError, match=r"only in 'test': .*: names differ by case, spaces or how accents are"
    ):
        load_image_folder(tmp_path, "train")


def test_a_file_keeps_its_split_however_its_accents_are_stored():
    names = [f"Käse/{number}.png" for number in range(40)]
    apart = [unicodedata.normalize("NFD", name) for name in names]
    assert [split_of(name) for name in names] == [split_of(name) for name in apart]
