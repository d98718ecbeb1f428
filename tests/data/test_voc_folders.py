"""Folders of VOC's XML: which files are read, how lists divide them, and what is told of the rest."""

import pytest

from nonlocalnn.data.objects import load_objects
from object_pictures import write_xml


def voc(root, names, **lists):
    """VOC's folders of some images, and lists of them by their names."""
    for index, name in enumerate(names):
        folder, _, stem = name.rpartition("/")
        write_xml(root / "Annotations" / folder, stem, index)
        (root / "JPEGImages" / folder).mkdir(parents=True, exist_ok=True)
        (root / "Annotations" / f"{name}.png").rename(root / "JPEGImages" / f"{name}.png")
    for name, listed in lists.items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{each}\n" for each in listed))
    return root


def images_of(root, split="train"):
    data = load_objects("voc-xml", split, data_dir=root)
    return [data.sample_id(index).removeprefix(f"{root}/") for index in range(len(data))]


def test_endings_in_capitals_and_leftovers_of_macos(tmp_path):
    root = voc(tmp_path, ["a", "b"], train=["a"], val=["b"])
    (root / "Annotations/a.xml").rename(root / "Annotations/a.XML")
    (root / "Annotations/._b.xml").write_bytes(b"\0\5\x16\7")
    assert [images_of(root, split) for split in ("train", "validation")] == [
        ["JPEGImages/a.png"],
        ["JPEGImages/b.png"],
    ]


@pytest.mark.parametrize("names", [("Train", "Val"), ("train", "validation"), ("TRAIN", "valid")])
def test_what_lists_may_be_called(tmp_path, names):
    train, validation = names
    # Names with spaces, which are a line each.
    root = voc(tmp_path, ["a b", "c", "d e"], **{train: ["d e", "a b"], validation: ["c"]})
    (root / "ImageSets/Main/._train.txt").write_bytes(b"\0\5\x16\7")
    assert images_of(root) == ["JPEGImages/d e.png", "JPEGImages/a b.png"]
    assert images_of(root, "validation") == images_of(root, "test") == ["JPEGImages/c.png"]


def test_a_list_that_is_missing(tmp_path):
    root = voc(tmp_path, ["a", "b"], train=["a", "b"])
    for split in ("validation", "test"):
        with pytest.raises(
            FileNotFoundError, match=rf"Main must have a list of '{split}', .*it has train\.txt"
        ):
            images_of(root, split)
    assert len(images_of(root)) == 2
    # Divided by their names before, as if there were no list.
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/test.txt")
    assert len(images_of(root, "test")) == 2
    with pytest.raises(FileNotFoundError, match=r"a list of 'train'.*take the lists away"):
        images_of(root)


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"train": ["a", "b"], "val": ["b"]}, r"'b' is in train\.txt and in val\.txt: leave it in one"),
        ({"test": ["b"], "train": ["a", "b"]}, r"'b' is in test\.txt and in train\.txt: leave it in one"),
        ({"train": ["a", "b", "a"]}, r"train\.txt must list each image once; 'a' is there twice"),
        ({"val": ["a"], "valid": ["b"]}, r"one list of 'validation'; it has val\.txt and valid\.txt"),
    ],
)
def test_lists_that_contradict_themselves(tmp_path, lists, says):
    with pytest.raises(ValueError, match=says):
        images_of(voc(tmp_path, ["a", "b"], **lists))


def test_validation_and_test_may_be_the_same_images(tmp_path):
    root = voc(tmp_path, ["a", "b", "c"], train=["a"], val=["b", "c"], test=["c", "b"])
    assert images_of(root, "validation") == ["JPEGImages/b.png", "JPEGImages/c.png"]
    assert images_of(root, "test") == ["JPEGImages/c.png", "JPEGImages/b.png"]


def test_folders_in_folders(tmp_path):
    """As CVAT writes images that lay in folders; one name may be in two of them."""
    names = ["near/a", "far/a", "b"]
    root = voc(tmp_path, names, train=["near/a", "b"], val=["far/a"])
    assert images_of(root) == ["JPEGImages/near/a.png", "JPEGImages/b.png"]
    assert images_of(root, "validation") == ["JPEGImages/far/a.png"]
    (root / "ImageSets/Main/train.txt").unlink()
    (root / "ImageSets/Main/val.txt").unlink()
    divided = [path for split in ("train", "validation", "test") for path in images_of(root, split)]
    assert sorted(divided) == sorted(f"JPEGImages/{name}.png" for name in names)


@pytest.mark.parametrize("folder", ["", "train/"])
def test_images_without_a_file_are_told(tmp_path, folder):
    for index in range(3):
        write_xml(tmp_path / folder, f"{index}", index)
    # One that was renamed is that of its XML.
    (tmp_path / folder / "1.png").rename(tmp_path / folder / "first.png")
    path = tmp_path / folder / "1.xml"
    path.write_text(path.read_text().replace("1.png", "C:\\set\\first.jpg"))
    if folder:
        assert len(images_of(tmp_path)) == 3
    write_xml(tmp_path / folder, "forgotten", 0)
    (tmp_path / folder / "forgotten.xml").unlink()
    with pytest.warns(UserWarning, match=r"1 of 4 images have no XML .* left out, such as .*forgotten\.png"):
        images_of(tmp_path)


def test_files_without_an_object_or_a_class(tmp_path):
    write_xml(tmp_path / "train", "a", 0)
    path = tmp_path / "train/a.xml"
    text = path.read_text()
    path.write_text(text[: text.index("<object>")] + "</annotation>")
    with pytest.raises(ValueError, match=rf"none of the 1 XML files in {tmp_path} has an <object>"):
        images_of(tmp_path)
    for content, says in (("", "must name a class at least"), ("red\nred\n", "'red' is there twice")):
        (tmp_path / "classes.txt").write_text(content)
        with pytest.raises(ValueError, match=rf"classes\.txt .*{says}"):
            images_of(tmp_path)
