"""Masks of rarer kinds: few bits, signed numbers, two of one image, and leftovers of systems beside them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mask_pictures import draw, write_folder, write_pair
from nonlocalnn.data.masks import load_masks
from nonlocalnn.data.masks.mask_file import read_mask


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_grey_png(path, bits, row, width):
    """A PNG of one row of packed bits, which Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(
    ("bits", "row", "ids"),
    [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])],
)
def test_ids_of_few_bits(tmp_path, bits, row, ids):
    write_grey_png(tmp_path / "a.png", bits, row, 4)
    assert read_mask(tmp_path / "a.png").tolist() == [ids]


def test_colours_of_few_bits_are_those_that_people_see(tmp_path):
    write_grey_png(tmp_path / "a.png", 2, b"\x1b", 4)
    colours = {(85 * number, 85 * number, 85 * number): 3 - number for number in range(4)}
    assert read_mask(tmp_path / "a.png", colours).tolist() == [[3, 2, 1, 0]]


@pytest.mark.parametrize("wrong", [-1, -255, 65536])
def test_ids_that_a_byte_does_not_hold(tmp_path, wrong):
    root = write_folder(tmp_path)
    ids = draw(0)[1].astype(np.int32)
    ids[0, 0] = wrong
    (root / "train/masks/train-0.png").unlink()
    Image.fromarray(ids).save(root / "train/masks/train-0.tif")
    data = load_masks("masks", "train", data_dir=root)
    with pytest.raises(ValueError, match=rf"train-0\.tif has the ids {wrong}, and there are 2 classes"):
        data.read(0)


def test_masks_of_floating_point_are_called_that(tmp_path):
    Image.fromarray(np.ones((2, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif must hold an id .*it has floating-point numbers .*'F'"):
        read_mask(tmp_path / "a.tif")


def test_two_masks_of_one_image(tmp_path):
    root = write_folder(tmp_path)
    Image.fromarray(draw(1)[1]).save(root / "train/masks/train-0.tif")
    with pytest.raises(
        ValueError, match=r"masks must have one mask of a name; .*'train-0', train-0\.png and train-0\.tif"
    ):
        load_masks("masks", "train", data_dir=root)


def test_an_empty_list_of_classes_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"classes\.txt must name a class at least, one a line; it is empty"):
        load_masks("masks", "train", data_dir=write_folder(tmp_path, classes=()))


@pytest.mark.parametrize(
    ("data", "image", "mask"),
    [
        (
            "cityscapes",
            "leftImg8bit/train/bonn/{}a_leftImg8bit.png",
            "gtFine/train/bonn/a_gtFine_labelIds.png",
        ),
        ("ade20k", "images/training/{}a.jpg", "annotations/training/a.png"),
    ],
)
def test_leftovers_of_macos_are_no_images(tmp_path, data, image, mask):
    for name, pixels in ((image.format(""), draw(0)[0]), (mask, draw(0)[1])):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / image.format("._")).write_bytes(b"\0\5\x16\7")
    found = load_masks(data, "train", data_dir=tmp_path)
    assert [found.sample_id(index) for index in range(len(found))] == [str(tmp_path / image.format(""))]


@pytest.mark.parametrize("labels", [True, False], ids=["CVAT", "VOC"])
def test_lists_of_vocs_masks(tmp_path, labels):
    for index, name in enumerate("ab"):
        write_pair(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", name, index)
    if labels:
        (tmp_path / "labelmap.txt").write_text("soil:0,0,0::\nleaf:1,1,1::\n")
    folder = tmp_path / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    (folder / "Train.txt").write_text("a\n")
    (folder / "._default.txt").write_bytes(b"\0\5\x16\7")
    assert load_masks("voc", "train", data_dir=tmp_path).sample_id(0).endswith("a.png")
    with pytest.raises(FileNotFoundError, match=r"must have a list of 'validation', .*it has Train\.txt"):
        load_masks("voc", "validation", data_dir=tmp_path)
    (folder / "Val.txt").write_text("b\n")
    assert load_masks("voc", "validation", data_dir=tmp_path).sample_id(0).endswith("b.png")
    (folder / "Val.txt").write_text("b\na\n")
    with pytest.raises(ValueError, match=r"'a' is in Train\.txt and in Val\.txt"):
        load_masks("voc", "train", data_dir=tmp_path)
