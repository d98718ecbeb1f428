"""Where tools put COCO's JSON and VOC's XML, and how they name images."""

import json
import unicodedata
from contextlib import nullcontext

import pytest
from PIL import Image

from nonlocalnn.data.objects import load_objects
from nonlocalnn.data.recognition import recognised_data
from object_pictures import CATEGORIES, coco, squares, write_roboflow, write_xml

SPLITS = ("train", "validation", "test")


def draw(folder, names):
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(squares(index)[0]).save(path)


def write_json(path, content, *, start=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start + json.dumps(content).encode())


def images_of(root, split="train", name="coco"):
    data = load_objects(name, split, data_dir=root)
    for index in range(len(data)):
        # As large as the file says, so it is an image of the set.
        assert data[index][0].shape == (3, 32, 48)
    return [data.sample_id(index).removeprefix(f"{root}/") for index in range(len(data))]


@pytest.mark.parametrize(
    "place",
    ["annotations/instances_default.json", "result.json", "labels.json", "all of them.json"],
    ids=["CVAT", "Label Studio", "FiftyOne", "any name"],
)
def test_json_under_any_name_is_divided(tmp_path, place):
    names = [f"{index}.png" for index in range(6)]
    draw(tmp_path / "images", names)
    write_json(tmp_path / place, coco(names))
    # Other JSON lies beside it.
    write_json(tmp_path / "settings.json", {"images": 3})
    assert recognised_data(tmp_path) == "coco"
    found = [images_of(tmp_path, split) for split in SPLITS]
    assert sorted(path for each in found for path in each) == sorted(f"images/{name}" for name in names)
    # Of three images and more each split has one.
    assert all(found)


@pytest.mark.parametrize(
    ("source", "images"),
    [
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/instances_{}.json", "images"),
        ("{}/labels.json", "{}/data"),
        ("{}/annotations.json", "{}/images"),
        ("marks-{}.json", "images"),
    ],
    ids=["CVAT", "CVAT, one folder", "FiftyOne", "a folder a split", "a file a split"],
)
def test_the_split_stands_in_the_name(tmp_path, source, images):
    for split, name in (("train", "Train"), ("validation", "Val"), ("test", "Test")):
        draw(tmp_path / images.format(name), [f"{split}.png"])
        write_json(tmp_path / source.format(name), coco([f"{split}.png"]))
    assert recognised_data(tmp_path) == "coco"
    for split, name in (("train", "Train"), ("validation", "Val"), ("test", "Test")):
        assert images_of(tmp_path, split) == [f"{images.format(name)}/{split}.png"]


@pytest.mark.parametrize(
    ("lies_at", "called"),
    [
        ("images/{}", "/home/someone/set/images/{}"),
        ("images/{}", "images\\{}"),
        ("images/{}", "C:\\set\\images\\{}"),
        ("images/{}", "../images/{}"),
        ("images/{}", "https://example.org/set/{}"),
        ("images/near/{}", "set/near/{}"),
        ("images/near/more/{}", "{}"),
        ("pictures/{}", "{}"),
    ],
)
def test_images_are_found_by_the_last_parts_of_their_paths(tmp_path, lies_at, called):
    names = ["1.png", "2.png"]
    draw(tmp_path, [lies_at.format(name) for name in names])
    for split in ("train", "valid"):
        write_json(tmp_path / f"{split}.json", coco([called.format(name) for name in names]))
    assert images_of(tmp_path) == [lies_at.format(name) for name in names]


def test_endings_that_tools_changed_or_dropped(tmp_path):
    draw(tmp_path / "images", ["a.png", "b.rf.12.png", "C.PNG"])
    write_json(tmp_path / "train.json", coco(["a.heic", "b.rf.12", "c.jpg"]))
    assert images_of(tmp_path) == ["images/a.png", "images/b.rf.12.png", "images/C.PNG"]


@pytest.mark.parametrize("lies_at", ["images", "images/deeper"])
def test_a_dot_in_a_name_is_no_ending(tmp_path, lies_at):
    """A stray picture called by what stands before the dot is another one."""
    draw(tmp_path / "images", ["photo.jpg"])
    draw(tmp_path / lies_at, ["photo.1.png", "photo.2.png"])
    write_json(tmp_path / "train.json", coco(["photo.1", "photo.2.heic"]))
    told = (
        pytest.warns(UserWarning, match=r"images beside .*photo\.jpg")
        if lies_at == "images"
        else nullcontext()
    )
    with told:
        assert images_of(tmp_path) == [f"{lies_at}/photo.1.png", f"{lies_at}/photo.2.png"]
    (tmp_path / lies_at / "photo.1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"photo\.1 is missing"):
        images_of(tmp_path)


def test_a_dot_in_the_name_of_an_xml_is_no_ending(tmp_path):
    write_xml(tmp_path / "train", "photo.1", 0)
    draw(tmp_path / "train", ["photo.jpg"])
    with pytest.warns(UserWarning, match=r"1 of 2 images have no XML file .*photo\.jpg"):
        assert images_of(tmp_path, name="voc-xml") == ["train/photo.1.png"]


@pytest.mark.parametrize(("said", "lies"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("folder", ["images", "images/deeper"])
def test_letters_with_accents_in_one_and_in_two(tmp_path, said, lies, folder):
    said, lies = (unicodedata.normalize(form, "ü.png") for form in (said, lies))
    draw(tmp_path / folder, [lies])
    write_json(tmp_path / "train.json", coco([said]))
    assert images_of(tmp_path) == [f"{folder}/{lies}"]


def test_two_images_of_one_name(tmp_path):
    draw(tmp_path / "images", ["near/1.png", "far/1.png"])
    write_json(tmp_path / "train.json", coco(["1.png"]))
    with pytest.raises(
        FileNotFoundError, match=r"1\.png is missing.* 2 images have its name.*write its folder"
    ):
        images_of(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    draw(tmp_path / "images", ["1.png"])
    for name in ("training-a", "a-train", "b-train"):
        write_json(tmp_path / f"{name}.json", coco(["1.png"]))
    with pytest.raises(
        ValueError, match=r"one file of marks of 'train'; a-train\.json and b-train\.json both"
    ):
        images_of(tmp_path)
    (tmp_path / "b-train.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no marks of 'test'.*; it has those of train: add them"
    ):
        images_of(tmp_path, "test")


def test_numbers_as_text_and_a_mark_of_the_files_encoding(tmp_path):
    """Tables write ids as text or with a point, and Windows a mark before the text."""
    content = coco(["1.png", "2.png"])
    for image in content["images"]:
        image.update(id=str(image["id"]), height=32.0)
    for mark in content["annotations"]:
        mark.update(image_id=float(mark["image_id"]), category_id=str(mark["category_id"]), id="x")
    content["categories"] = [{**each, "id": str(each["id"])} for each in CATEGORIES]
    draw(tmp_path, ["1.png", "2.png"])
    write_json(tmp_path / "train.json", content, start=b"\xef\xbb\xbf")
    data = load_objects("coco", "train", data_dir=tmp_path)
    assert (data.classes, data.class_ids) == (("red", "blue"), (3, 90))
    assert [data.sheet(index).number for index in range(2)] == [7, 17]
    assert [len(data[index][1]["boxes"]) for index in range(2)] == [1, 2]


@pytest.mark.parametrize("number", ["seven", 7.5, True, "7" * 30, "²"])
def test_ids_that_are_no_numbers(tmp_path, number):
    write_roboflow(tmp_path, change=lambda content: content["images"][0].update(id=number))
    with pytest.raises(ValueError, match=r"the one at place 0 has not: .* is no whole number"):
        images_of(tmp_path)


def test_two_classes_of_one_name(tmp_path):
    write_roboflow(
        tmp_path,
        change=lambda content: content.update(
            categories=[{"id": 3, "name": "red"}, {"id": 90, "name": "red"}]
        ),
    )
    with pytest.raises(ValueError, match="two of the categories are called 'red': rename one"):
        images_of(tmp_path)


def test_a_polygon_that_is_in_no_list(tmp_path):
    def flatten(content):
        for mark in content["annotations"]:
            mark["segmentation"] = mark["segmentation"][0]

    write_roboflow(tmp_path / "flat", change=flatten)
    write_roboflow(tmp_path / "lists")
    flat, lists = (
        load_objects("coco", "train", data_dir=tmp_path / name)[1][1] for name in ("flat", "lists")
    )
    assert flat["masks"].equal(lists["masks"])


def test_a_crowd_without_a_mask_is_its_box(tmp_path):
    def crowd(content):
        content["annotations"][0].update(iscrowd=1, segmentation=[])

    root = write_roboflow(tmp_path)
    content = json.loads((root / "test/_annotations.coco.json").read_text())
    crowd(content)
    write_json(root / "test/_annotations.coco.json", content)
    data = load_objects("coco", "test", data_dir=root)
    left, top, width, height = map(int, data.truth()["annotations"][0]["bbox"])
    mask = data[0][1]["masks"][0]
    assert int(mask.sum()) == width * height == int(mask[top : top + height, left : left + width].sum())
    assert data.truth()["annotations"][0]["segmentation"]


def test_xml_in_a_folder_beside_that_of_images(tmp_path):
    for split in ("train", "valid"):
        write_xml(tmp_path / split / "annotations", "1", 0)
        (tmp_path / split / "images").mkdir()
        (tmp_path / split / "annotations/1.png").rename(tmp_path / split / "images/1.png")
    assert images_of(tmp_path, "train", "voc-xml") == ["train/images/1.png"]
    assert images_of(tmp_path, "validation", "voc-xml") == ["valid/images/1.png"]


def test_a_renamed_image_is_that_of_its_xml(tmp_path):
    """The XML keeps the first name, which another image may have now."""
    for name, index in (("1", 0), ("2", 1)):
        write_xml(tmp_path / "train", name, index)
    path = tmp_path / "train/1.xml"
    path.write_text(path.read_text().replace("1.png", "2.png"))
    assert images_of(tmp_path, "train", "voc-xml") == ["train/1.png", "train/2.png"]


@pytest.mark.parametrize(
    "names", [("far/a.png", "near/a.png"), ("a.jpg", "a.bmp")], ids=["folders", "endings"]
)
def test_one_image_is_not_that_of_two(tmp_path, names):
    draw(tmp_path / "images", ["a.png"])
    write_json(tmp_path / "train.json", coco(names))
    with pytest.raises(
        ValueError, match=rf"speaks of {names[0]} and of {names[1]}, and .*a\.png alone is there"
    ):
        load_objects("coco", "train", data_dir=tmp_path)


@pytest.mark.parametrize("called", ["b.png", "C:/pictures/b.png"])
def test_an_image_of_two_splits(tmp_path, called):
    draw(tmp_path / "images", ["a.png", "b.png"])
    write_json(tmp_path / "train.json", coco(["a.png", called]))
    write_json(tmp_path / "test.json", coco(["b.png"]))
    assert images_of(tmp_path) == ["images/a.png", "images/b.png"]
    with pytest.raises(
        ValueError, match=r"test\.json must list nothing that training has; .*b\.png is of both"
    ):
        load_objects("coco", "test", data_dir=tmp_path)


def test_images_of_one_name_in_folders_of_splits(tmp_path):
    for split in ("train", "test"):
        draw(tmp_path / split, ["a.png"])
        write_json(tmp_path / split / "_annotations.coco.json", coco(["a.png"]))
    assert images_of(tmp_path, "test") == ["test/a.png"]


def test_an_image_that_two_splits_link_to(tmp_path):
    draw(tmp_path / "pool", ["a.png"])
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").symlink_to(tmp_path / "pool/a.png")
        write_json(tmp_path / f"{split}.json", coco(["a.png"]))
    with pytest.raises(ValueError, match=r"must list nothing that training has; .*a\.png is of both"):
        load_objects("coco", "test", data_dir=tmp_path)


def test_images_that_no_file_lists_are_told(tmp_path):
    draw(tmp_path / "images", ["a.png", "b.png", "c.png", "ä.png"])
    write_json(tmp_path / "train.json", coco(["a.png", "ä.png"]))
    write_json(tmp_path / "test.json", coco(["b.png"]))
    with pytest.warns(
        UserWarning, match=r"train\.json: images beside .* left out, 1 in all, such as .*c\.png"
    ):
        assert images_of(tmp_path) == ["images/a.png", "images/ä.png"]


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    draw(tmp_path / "images", ["a.png"])
    content = coco(["a.png"])
    write_json(tmp_path / "train.json", content | {"categories": content["categories"][::-1]})
    data = load_objects("coco", "train", data_dir=tmp_path)
    assert (data.classes, data.class_ids) == (("red", "blue"), (3, 90))


def test_a_link_to_a_folder_is_no_second_image(tmp_path):
    draw(tmp_path / "images/deeper", ["a.png"])
    (tmp_path / "newest").symlink_to(tmp_path / "images")
    write_json(tmp_path / "train.json", coco(["a.png"]))
    assert images_of(tmp_path) == ["images/deeper/a.png"]
