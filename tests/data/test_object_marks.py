"""What marks of objects may be written as, and which are refused by name."""

import pytest
import torch

from nonlocalnn.data.objects import load_objects
from object_pictures import annotation, write_roboflow, write_xml


def every(**change):
    return lambda content: [mark.update(change) for mark in content["annotations"]]


def as_text(content):
    for mark in content["annotations"]:
        mark["bbox"] = list(map(str, mark["bbox"]))
        mark["segmentation"] = [list(map(str, polygon)) for polygon in mark["segmentation"]]
        mark["area"], mark["iscrowd"] = str(mark["area"]), str(mark["iscrowd"])


def test_numbers_of_marks_as_text(tmp_path):
    root = write_roboflow(tmp_path, change=as_text)
    _, target = load_objects("coco", "train", data_dir=root)[0]
    expected = load_objects("coco", "train", data_dir=write_roboflow(tmp_path / "numbers"))[0][1]
    assert target.keys() == expected.keys()
    assert all(torch.equal(target[name], expected[name]) for name in target)


def test_run_lengths_as_text(tmp_path):
    lengths = {"size": ["32", "48"], "counts": ["5", "3", str(32 * 48 - 8)]}
    root = write_roboflow(tmp_path, change=every(segmentation=lengths))
    assert int(load_objects("coco", "train", data_dir=root)[0][1]["masks"].sum()) == 3


@pytest.mark.parametrize(
    ("value", "kept"),
    [("0", 1), (False, 1), (None, 1), ("false", 1), ("1", 0), (True, 0), (1.0, 0)],
    ids=repr,
)
def test_what_says_that_an_object_is_a_crowd(tmp_path, value, kept):
    root = write_roboflow(tmp_path, change=every(iscrowd=value))
    assert len(load_objects("coco", "train", data_dir=root)[0][1]["boxes"]) == kept


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"iscrowd": "no"}, "its iscrowd must be 0 or 1; got 'no'"),
        ({"iscrowd": 2}, "its iscrowd must be 0 or 1; got 2"),
        ({"bbox": ["2", "3", "four", "5"]}, "a box must be four numbers; got"),
        ({"bbox": ["2", "3", "nan", "5"]}, "a box must be four numbers; got"),
        ({"area": "nan"}, "its area must be a number; got 'nan'"),
        ({"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]}, "its mask has no pixel of the image, 48 x 32"),
        ({"segmentation": [[60, 1, 70, 1, 70, 9]]}, "its mask has no pixel of the image"),
        ({"segmentation": {"size": [32, 48], "counts": [32 * 48]}}, "its mask has no pixel of the image"),
        # pycocotools would end the process.
        ({"segmentation": [[0, 0, 1e9, 0, 1e9, 5]]}, "a polygon ends far beyond the image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mark_with_a_fault_is_named(tmp_path, change, says):
    root = write_roboflow(tmp_path, change=lambda content: content["annotations"][0].update(change))
    with pytest.raises(ValueError, match=r"annotation 1: train-0\.png: ") as error:
        load_objects("coco", "train", data_dir=root)
    assert says in str(error.value)


def test_small_and_thin_masks_with_a_pixel(tmp_path):
    shapes = [[[3, 3, 4, 3, 4, 4, 3, 4]], [[-5, 3, 40, 3, 40, 4, -5, 4]]]
    marks = [annotation(90 + place, 7, 3, 2, 2, 5, segmentation=shape) for place, shape in enumerate(shapes)]
    root = write_roboflow(tmp_path, change=lambda content: content["annotations"].extend(marks))
    assert load_objects("coco", "train", data_dir=root)[0][1]["masks"].flatten(1).sum(1).min() > 0


def test_boxes_in_fractions_of_the_image(tmp_path):
    def shrink(content):
        for mark in content["annotations"]:
            left, top, width, height = mark["bbox"]
            mark["bbox"] = [left / 48, top / 32, width / 48, height / 32]

    root = write_roboflow(tmp_path, change=shrink)
    with pytest.raises(
        ValueError, match=r"its boxes are fractions of the image, .* of train-0\.png, .* 48 x 32"
    ):
        load_objects("coco", "train", data_dir=root)


def test_a_box_of_a_pixel_is_no_fraction(tmp_path):
    pixel = annotation(99, 7, 3, 0, 0, 1)
    root = write_roboflow(tmp_path, change=lambda content: content["annotations"].insert(0, pixel))
    assert [0, 0, 1, 1] in load_objects("coco", "train", data_dir=root)[0][1]["boxes"].tolist()


def test_corners_of_xml_in_fractions(tmp_path):
    write_xml(tmp_path / "train", "a", 0)
    path = tmp_path / "train/a.xml"
    for corner in ("xmin", "ymin", "xmax", "ymax"):
        before, rest = path.read_text().split(f"<{corner}>")
        path.write_text(f"{before}<{corner}>0.{rest}")
    with pytest.raises(ValueError, match="its boxes are fractions of the image"):
        load_objects("voc-xml", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("word", "kept"),
    [("Unspecified", 1), ("false", 1), ("", 1), (" 0 ", 1), ("1", 0), ("True", 0), (" true", 0)],
    ids=repr,
)
def test_what_says_that_an_object_is_difficult(tmp_path, word, kept):
    write_xml(tmp_path / "train", "a", 0)
    path = tmp_path / "train/a.xml"
    path.write_text(path.read_text().replace("<difficult>0<", f"<difficult>{word}<"))
    assert len(load_objects("voc-xml", "train", data_dir=tmp_path)[0][1]["boxes"]) == kept


def test_a_word_that_does_not_say_whether_an_object_is_difficult(tmp_path):
    write_xml(tmp_path / "train", "a", 0)
    path = tmp_path / "train/a.xml"
    path.write_text(path.read_text().replace("<difficult>0<", "<difficult>rather<"))
    with pytest.raises(ValueError, match=r"a\.xml: <difficult> must be 0 or 1; got 'rather'"):
        load_objects("voc-xml", "train", data_dir=tmp_path)
