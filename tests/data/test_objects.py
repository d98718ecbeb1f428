"""Images with objects: COCO's JSON and VOC's XML, what is refused by name, and the generated scenes."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coder
from pycocotools.coco import COCO

from nonlocalnn.data.masks import load_masks
from nonlocalnn.data.objects import decoded, encoded, load_objects
from nonlocalnn.data.objects.annotated import mirrored
from nonlocalnn.data.objects.coco import read_coco
from nonlocalnn.data.objects.runs import lengths_of
from nonlocalnn.data.recognition import recognised_data
from object_pictures import CATEGORIES, annotation, coco, squares, write_roboflow, write_xml
from tolerances import assert_same


def test_roboflows_folders(tmp_path):
    write_roboflow(tmp_path)
    data = load_objects("coco", "train", data_dir=tmp_path)
    # The class of which all others are kinds is none; numbers with holes stay.
    assert (data.classes, data.class_ids, len(data)) == (("red", "blue"), (3, 90), 8)
    assert data.has_masks
    image, target = data[1]
    found = squares(1)[1]
    assert target["labels"].tolist() == [1, 2]
    for box, mask, (_, left, top, side) in zip(target["boxes"], target["masks"], found, strict=True):
        assert box.tolist() == [left, top, left + side, top + side]
        expected = torch.zeros(32, 48, dtype=torch.uint8)
        expected[top : top + side, left : left + side] = 1
        assert_same(mask, expected)
        assert (image[:, mask.bool()].std(1) < 0.01).all()
    assert "is_crowd" not in target
    assert load_objects("coco", "validation", data_dir=tmp_path).sample_id(0).endswith("valid/valid-0.png")
    assert recognised_data(tmp_path) == "coco"


def test_images_and_targets_make_a_batch(tmp_path):
    data = load_objects("coco", "train", data_dir=write_roboflow(tmp_path))
    images, targets = data.collate([data[0], data[1]])
    assert [each.shape for each in images] == [(3, 32, 48)] * 2
    assert [len(each["boxes"]) for each in targets] == [1, 2]
    assert data.groups == [1] * 8


def test_cocos_own_folders(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        Image.fromarray(squares(0)[0]).save(tmp_path / split / "1.png")
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco(["1.png"])))
    assert "train2017" in load_objects("coco", "train", data_dir=tmp_path).sample_id(0)
    # COCO publishes no marks of its test.
    for split in ("validation", "test"):
        assert "val2017" in load_objects("coco", split, data_dir=tmp_path).sample_id(0)
    assert recognised_data(tmp_path) == "coco"


def test_one_file_is_divided_by_the_names_of_the_images(tmp_path):
    names = [f"{index}.png" for index in range(30)]
    (tmp_path / "images").mkdir()
    for index, name in enumerate(names):
        Image.fromarray(squares(index)[0]).save(tmp_path / "images" / name)
    (tmp_path / "annotations.json").write_text(json.dumps(coco(names)))
    splits = [load_objects("coco", split, data_dir=tmp_path) for split in ("train", "validation", "test")]
    ids = [data.sample_id(index) for data in splits for index in range(len(data))]
    assert len(set(ids)) == len(ids) == 30
    assert len(splits[0]) > 15


def test_crowds_are_left_out_of_training_alone(tmp_path):
    crowd = annotation(99, 7, 3, 1, 1, 5, iscrowd=1, segmentation={"size": [32, 48], "counts": [0, 1536]})
    root = write_roboflow(tmp_path, change=lambda content: content["annotations"].append(crowd))
    (root / "test/_annotations.coco.json").write_text((root / "train/_annotations.coco.json").read_text())
    for index in range(8):
        Image.fromarray(squares(index)[0]).save(root / "test" / f"train-{index}.png")
    assert len(load_objects("coco", "train", data_dir=root)[0][1]["boxes"]) == 1
    target = load_objects("coco", "test", data_dir=root)[0][1]
    assert target["is_crowd"].tolist() == [False, True]
    assert int(target["masks"][1].sum()) == 32 * 48


def spoilt(**change):
    def spoil(content):
        content["annotations"][0].update(change)

    return spoil


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (spoilt(category_id=4), "annotation 1: train-0.png has category 4, which is none of the categories"),
        (spoilt(image_id=8), "annotation 1: there is no image 8"),
        (spoilt(bbox=[3, 3, 0, 5]), "train-0.png: its box [3, 3, 0, 5] has no area"),
        (spoilt(bbox=[3, 3, 4, -5]), "has no area"),
        (spoilt(bbox=[50, 3, 4, 5]), "lies outside the image, 48 x 32"),
        (spoilt(bbox=[3, 3, float("nan"), 5]), "a box must be four numbers"),
        (spoilt(bbox=[3, 3, 5]), "a box must be four numbers"),
        (spoilt(segmentation=[[1, 2, 3, 4]]), "a polygon must have three points at least; got [1, 2, 3, 4]"),
        (spoilt(segmentation=[[1, 2, 3, 4, 5, 6], [1, 2, 3]]), "a polygon must have three points"),
        (spoilt(segmentation={"size": [9, 9], "counts": [81]}), "a size of [32, 48]; got [9, 9]"),
        (spoilt(segmentation={"size": [32, 48], "counts": [5]}), "must add up to its image's pixels"),
        (spoilt(segmentation={"size": [32, 48], "counts": "00"}), "must add up to its image's pixels"),
        (spoilt(segmentation=[]), "has no segmentation, and others have one"),
        (spoilt(area="large"), "its area must be a number"),
        (lambda content: content["annotations"][0].pop("bbox"), "annotation 1: it lacks 'bbox'"),
        (lambda content: content["annotations"].append("x"), "annotation 12"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_object_with_a_fault_is_named(tmp_path, change, says):
    root = write_roboflow(tmp_path, change=change)
    with pytest.raises(ValueError, match="set max_broken=1 to leave such objects out") as error:
        load_objects("coco", "train", data_dir=root)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_objects("coco", "train", data_dir=root, max_broken=1)
    # And perhaps of the image that has no object then.
    assert "left out, 1 in all" in str(caught[0].message)
    assert sum(len(data.sheet(index).objects) for index in range(8)) >= 11


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.pop("images"), "it has no list images"),
        (lambda content: content["images"].append(content["images"][0]), "two images have the id 7"),
        (
            lambda content: content["images"][1].update(file_name="train-0.png"),
            "train-0.png, of the ids 7 and 17",
        ),
        (lambda content: content["images"][0].pop("height"), "the one at place 0 has not"),
        (lambda content: content["images"][0].update(id="a"), "'a' is no whole number"),
        (lambda content: content["categories"].append({"id": 3, "name": "x"}), "the same id"),
        (lambda content: content["categories"].append({"id": 5}), "must have an id and a name"),
        (lambda content: content["images"][0].update(file_name="no.png"), "no.png is missing"),
    ],
    ids=["no images", "twice", "one file twice", "no height", "no number", "ids", "no name", "missing"],
)
def test_a_file_with_a_fault_is_named(tmp_path, change, says):
    # One list for all tests: a change must not outlive its own.
    def on_copy(content):
        content["categories"] = [dict(each) for each in content["categories"]]
        change(content)

    root = write_roboflow(tmp_path, change=on_copy)
    with pytest.raises((ValueError, FileNotFoundError), match=r"_annotations|is missing") as error:
        load_objects("coco", "train", data_dir=root)
    assert says in str(error.value)


@pytest.mark.parametrize("number", ["0", 0.0])
def test_the_class_of_all_others_stays_where_something_is_of_it(tmp_path, number):
    def spoil(content):
        content["annotations"][0]["category_id"] = number
        # Of no use, and no reason to end.
        content["categories"] = [*CATEGORIES[:2], {**CATEGORIES[2], "supercategory": ["shapes"]}]

    data = load_objects("coco", "train", data_dir=write_roboflow(tmp_path, change=spoil))
    assert (data.classes, data.class_ids) == (("shapes", "red", "blue"), (0, 3, 90))
    assert data[0][1]["labels"].tolist() == [1]


def test_json_that_is_cut(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(coco(["a.png"]))[:-40])
    with pytest.raises(ValueError, match="is no whole JSON, it may be cut"):
        read_coco(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        read_coco(path)


def test_boxes_beyond_an_image_are_cut_off_and_told(tmp_path):
    root = write_roboflow(tmp_path, change=spoilt(bbox=[40, -9, 20, 20]))
    with pytest.warns(UserWarning, match="1 boxes end beyond their image and are cut off there"):
        data = load_objects("coco", "train", data_dir=root)
    assert data[0][1]["boxes"].tolist() == [[40, 0, 48, 11]]
    # Figures are of what the file says, as other tools count.
    assert data.truth()["annotations"][0]["bbox"] == [40, -9, 20, 20]


def test_images_without_objects(tmp_path):
    def empty(content):
        content["annotations"] = content["annotations"][1:]

    root = write_roboflow(tmp_path, change=empty)
    with pytest.warns(UserWarning, match="1 of 8 images have no object; training takes them as empty ones"):
        data = load_objects("coco", "train", data_dir=root)
    _, target = data[0]
    assert (target["boxes"].shape, target["masks"].shape) == ((0, 4), (0, 32, 48))


def test_an_image_of_another_size(tmp_path):
    root = write_roboflow(tmp_path)
    Image.fromarray(np.zeros((48, 32, 3), np.uint8)).save(root / "train/train-0.png")
    data = load_objects("coco", "train", data_dir=root)
    with pytest.raises(
        ValueError, match="is 32 x 48 pixels, and its objects were marked on 48 x 32: it is tur"
    ):
        data[0]


def test_boxes_alone(tmp_path):
    def without(content):
        for each in content["annotations"]:
            each["segmentation"] = []

    data = load_objects("coco", "train", data_dir=write_roboflow(tmp_path, change=without))
    assert not data.has_masks
    assert "masks" not in data[0][1]


def test_the_truth_is_cocos(tmp_path):
    """What pycocotools makes of the file it makes of ours; numbers of objects begin with 1."""
    root = write_roboflow(tmp_path)
    path = root / "test/_annotations.coco.json"
    content = json.loads(path.read_text())
    # An id of 0 counts as not found in pycocotools.
    content["annotations"][0]["id"] = 0
    path.write_text(json.dumps(content))
    truth = load_objects("coco", "test", data_dir=root).truth()
    assert [each["id"] for each in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    theirs = COCO(str(path))
    for one, other in zip(truth["annotations"], theirs.dataset["annotations"], strict=True):
        for name in ("image_id", "category_id", "bbox", "area", "segmentation"):
            assert one[name] == other[name]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_are_pycocotools():
    torch.manual_seed(0)
    for _ in range(5):
        mask = (torch.rand(13, 17) < 0.4).to(torch.uint8)
        runs = encoded(mask)
        assert_same(decoded(runs, 13, 17), mask)
        lengths = lengths_of(runs["counts"])
        assert sum(lengths) == 13 * 17
        assert_same(decoded({"size": [13, 17], "counts": lengths}, 13, 17), mask)
    two = [[1, 1, 5, 1, 5, 5, 1, 5], [8, 8, 12, 8, 12, 12, 8, 12]]
    expected = coder.decode(coder.merge(coder.frPyObjects(two, 13, 17)))
    assert_same(decoded(two, 13, 17), torch.from_numpy(expected))


def test_mirrored_twice_is_the_same(tmp_path):
    image, target = load_objects("coco", "train", data_dir=write_roboflow(tmp_path))[1]
    once_image, once = mirrored(image, target)
    for box, mask in zip(once["boxes"].int().tolist(), once["masks"], strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    again_image, again = mirrored(once_image, once)
    assert_same(again_image, image)
    assert_same(again["boxes"], target["boxes"])
    assert_same(again["masks"], target["masks"])
    halves = load_objects("coco", "train", data_dir=tmp_path, augment=True)
    lefts = {halves[1][1]["boxes"][0, 0].item() for _ in range(20)}
    assert lefts == {target["boxes"][0, 0].item(), once["boxes"][0, 0].item()}


def test_xml_beside_images(tmp_path):
    for index in range(40):
        write_xml(tmp_path, f"photo-{index}", index)
    splits = [load_objects("voc-xml", split, data_dir=tmp_path) for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 40
    data = splits[0]
    assert (data.classes, data.has_masks) == (("blue", "red"), False)
    number = int(data.sample_id(0).rpartition("-")[2].removesuffix(".png"))
    expected = [[left, top, left + side, top + side] for _, left, top, side in squares(number)[1]]
    assert data[0][1]["boxes"].tolist() == expected
    assert recognised_data(tmp_path) == "voc-xml"


def test_vocs_own_folders(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2012"
    for index in range(3):
        write_xml(base / "Annotations", str(index), index)
        (base / "JPEGImages").mkdir(exist_ok=True)
        (base / "Annotations" / f"{index}.png").rename(base / "JPEGImages" / f"{index}.png")
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "ImageSets/Main/train.txt").write_text("0\n2\n")
    (base / "ImageSets/Main/val.txt").write_text("1\n")
    assert [len(load_objects("voc-xml", split, data_dir=tmp_path)) for split in ("train", "test")] == [2, 1]
    (base / "ImageSets/Main/train.txt").write_text("7\n")
    with pytest.raises(FileNotFoundError, match=r"7\.xml is missing"):
        load_objects("voc-xml", "train", data_dir=tmp_path)


def test_corners_of_xml(tmp_path):
    """Pixels are counted from 1, and both corners lie inside; difficult objects are as crowds."""
    box = "<xmin>0</xmin><ymin>1</ymin><xmax>48</xmax><ymax>1</ymax>"
    more = f"<object><name>red</name><difficult>1</difficult><bndbox>{box}</bndbox></object>"
    for split in ("train", "test"):
        write_xml(tmp_path / split, "a", 0, more=more)
    _, target = load_objects("voc-xml", "test", data_dir=tmp_path)[0]
    assert target["boxes"][1].tolist() == [0, 0, 48, 1]
    assert target["is_crowd"].tolist() == [False, True]
    assert len(load_objects("voc-xml", "train", data_dir=tmp_path)[0][1]["boxes"]) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-9], "is no whole XML, it may be cut"),
        (lambda text: text.replace("annotation", "svg"), "an <annotation>; it is a <svg>"),
        (lambda text: text.replace("<width>48</width>", ""), "must have <size/width>"),
        (lambda text: text.replace("<xmin>3<", "<xmin>three<"), "must be a number; got 'three'"),
        (lambda text: text.replace("<xmin>3<", "<xmin>0_3<"), "must be a number; got '0_3'"),
        (lambda text: text.replace("<name>blue</name>", ""), "must have <name>"),
        (lambda text: text.replace("<xmin>3<", "<xmin>30<"), "has no area"),
        (lambda text: text, "train/a.png is missing"),
    ],
    ids=["cut", "svg", "no size", "no number", "underscore", "no name", "no area", "no image"],
)
def test_xml_with_a_fault_is_named(tmp_path, change, says):
    write_xml(tmp_path / "train", "a", 0)
    path = tmp_path / "train/a.xml"
    path.write_text(change(path.read_text()))
    if "missing" in says:
        (tmp_path / "train/a.png").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r".") as error:
        load_objects("voc-xml", "train", data_dir=tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_scenes_are_those_of_segmentation():
    """A digit's box and mask are its pixels, and training draws each scene anew."""
    data = load_objects("detect-cue", "test")
    for index in range(3):
        image, target = data[index]
        assert_same(image, data.image(index))
        for box, mask, label in zip(target["boxes"], target["masks"], target["labels"], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            # The colour of the digit is or is not that of the square at the left.
            colour = image[:, mask.bool()].mean(1)
            cue = image[:, :, :34].flatten(1)
            cue = cue[:, cue.max(0).values > 0.5].mean(1)
            assert (colour.argmax() == cue.argmax() and bool((colour - cue).abs().max() < 0.5)) or label == 2
    torch.manual_seed(0)
    scenes = load_objects("detect-cue", "train", augment=True)
    assert not torch.equal(scenes[0][0], scenes[0][0])
    assert len(scenes) == 800
    # Digits of training and test are apart, as in the other scenes.
    assert len(load_masks("segment-cue", "test")) == len(data)
    assert data.sheet(0).objects[0].area == float(data[0][1]["masks"][0].sum())


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("detect-cue", {"data_dir": "x"}, "data_dir has no effect on 'detect-cue'"),
        ("coco", {}, "'coco' needs data_dir"),
        ("coco", {"data_dir": "no-such"}, "there is no folder no-such"),
        ("cocos", {}, "name must be one of 'coco'"),
    ],
)
def test_wrong_calls(name, settings, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load_objects(name, "train", **settings)


def test_a_folder_without_marks(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no marks of 'train'"):
        load_objects("coco", "train", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no XML"):
        load_objects("voc-xml", "train", data_dir=tmp_path)
