"""Images and masks in files: what is read, and one clear line where it cannot be."""

import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from mask_pictures import draw, write_folder, write_pair
from nonlocalnn.data.masks import IGNORED, load_masks
from nonlocalnn.data.masks.ids import ADE20K, CITYSCAPES, VOC
from nonlocalnn.data.masks.mask_file import read_mask
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.tasks.data_settings import DataSettings
from tolerances import assert_same


def test_a_folder_of_splits(tmp_path):
    root = write_folder(tmp_path)
    data = load_masks("masks", "train", data_dir=root)
    assert (len(data), data.classes) == (8, ("background", "square"))
    image, mask = data.read(3)
    pixels, ids = draw(3)
    assert_same(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert_same(mask, torch.from_numpy(ids))
    assert data.sample_id(3).endswith("train/images/train-3.png")


def test_the_other_layout_of_splits_and_another_name_of_validation(tmp_path):
    write_pair(tmp_path / "images/train", tmp_path / "masks/train", "a", 0)
    write_pair(tmp_path / "images/val", tmp_path / "masks/val", "b", 1)
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    assert len(load_masks("masks", "train", data_dir=tmp_path)) == 1
    assert load_masks("masks", "validation", data_dir=tmp_path).sample_id(0).endswith("val/b.png")
    with pytest.raises(ValueError, match=r"none of the images in .* falls to 'test'"):
        load_masks("masks", "test", data_dir=tmp_path)


def test_letters_with_accents_in_one_and_in_two(tmp_path):
    names = [unicodedata.normalize(form, "ü") for form in ("NFC", "NFD")]
    write_pair(tmp_path / "images/train", tmp_path / "masks/train", names[0], 0)
    (tmp_path / f"masks/train/{names[0]}.png").rename(tmp_path / f"masks/train/{names[1]}.png")
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    assert len(load_masks("masks", "train", data_dir=tmp_path)) == 1


def test_without_folders_a_file_keeps_its_split(tmp_path):
    for index in range(30):
        write_pair(tmp_path / "images", tmp_path / "masks", f"{index}", index)
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    names = {
        split: {data.sample_id(index) for index in range(len(data))}
        for split in ("train", "validation", "test")
        for data in [load_masks("masks", split, data_dir=tmp_path)]
    }
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 30


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "classes.txt").unlink(), "must hold classes.txt"),
        (lambda root: (root / "classes.txt").write_text("a\na\n"), "'a' is there twice"),
        (lambda root: (root / "train/masks/train-1.png").unlink(), r"train-1.png has no mask: .* is missing"),
        (lambda root: (root / "train/images/train-1.png").unlink(), "train-1.png has no image of its name"),
        (lambda root: draw_over(root, "train-1.bmp"), "there are two of 'train-1'"),
    ],
    ids=["no classes", "a class twice", "no mask", "no image", "two images"],
)
def test_folders_that_do_not_fit(tmp_path, spoil, says):
    spoil(write_folder(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load_masks("masks", "train", data_dir=tmp_path)


def draw_over(root, name):
    Image.fromarray(draw(0)[0]).save(root / "train/images" / name)


def test_there_is_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_masks("masks", "train", data_dir=tmp_path / "none")
    with pytest.raises(ValueError, match="needs data_dir"):
        load_masks("masks", "train")


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (
            Image.new("L", (40, 23)),
            r"train-3.png must be as large as its image: it is 40 x 23 pixels and .* 40 x 24",
        ),
        (Image.new("L", (24, 40)), "24 x 40 pixels and .* 40 x 24 .*one of both is turned, as by a camera's"),
        (Image.new("L", (40, 24), 2), "has the ids 2, and there are 2 classes, 0 to 1; 255 is ignored"),
        (Image.new("RGB", (40, 24), (1, 2, 3)), "has colours.*, as road:128,64,128"),
    ],
    ids=["size", "turned", "id", "colours"],
)
def test_masks_that_do_not_fit(tmp_path, mask, says):
    root = write_folder(tmp_path)
    mask.save(root / "train/masks/train-3.png")
    data = load_masks("masks", "train", data_dir=root)
    with pytest.raises(ValueError, match=says):
        data[3]
    data[1]


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_cut_file_is_named(tmp_path, kind):
    path = write_folder(tmp_path) / "train" / kind / "train-0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot read .*train-0\.png"):
        load_masks("masks", "train", data_dir=tmp_path)[0]


def test_a_mask_is_a_png_whatever_its_name(tmp_path):
    """Pillow would hand some formats to a program, and others change ids."""
    for name, kind in (("photo", "JPEG"), ("drawing", "EPS")):
        Image.new("L", (9, 9)).save(tmp_path / f"{name}.png", format=kind)
        with pytest.raises(ValueError, match="cannot read mask"):
            read_mask(tmp_path / f"{name}.png")


def test_ids_of_every_kind_of_png(tmp_path):
    ids = np.array([[0, 1, 1], [3, 255, 0]], dtype=np.uint8)
    with_palette = Image.fromarray(ids, mode="P")
    with_palette.putpalette([7, 7, 7] * 256)  # all of one colour: the index alone tells them apart
    kinds = {
        "grey": Image.fromarray(ids),
        "palette": with_palette,
        "deep": Image.fromarray(ids.astype(np.uint16)),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert read_mask(tmp_path / f"{name}.png").tolist() == ids.tolist(), name
    Image.fromarray(ids > 0).save(tmp_path / "bits.png")
    assert read_mask(tmp_path / "bits.png").tolist() == (ids > 0).astype(int).tolist()


def test_grey_that_was_saved_as_colours(tmp_path):
    ids = np.array([[0, 1, 1], [3, 255, 0]], dtype=np.uint8)
    grey = Image.fromarray(ids)
    for mode in ("RGB", "RGBA", "LA"):
        grey.convert(mode).save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png").tolist() == ids.tolist(), mode
    half = grey.convert("RGBA")
    half.putalpha(128)
    half.save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="has colours"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_masks_that_are_painted(tmp_path, mode):
    """Colours that classes.txt names; VOC's colour of borders is ignored."""
    root = write_folder(tmp_path, classes=("background:0,0,0", "square: 200,0,7".replace(" ", "")))
    colours = {0: (0, 0, 0), 1: (200, 0, 7), 255: (224, 224, 192)}
    for path in root.glob("*/masks/*.png"):
        ids = np.asarray(Image.open(path))
        if mode == "RGB":
            painted = Image.fromarray(
                np.array([[colours[each] for each in row] for row in ids.tolist()], np.uint8)
            )
        else:
            # The palette says the colours, and the index nothing: 255 is the border's here.
            painted = Image.fromarray(255 - ids, mode="P")
            painted.putpalette([part for each in range(256) for part in colours.get(255 - each, (1, 2, 3))])
        painted.save(path)
    data = load_masks("masks", "train", data_dir=root)
    assert data.classes == ("background", "square")
    for index in range(len(data)):
        number = int(data.sample_id(index).removesuffix(".png").rpartition("-")[2])
        assert data[index][1].tolist() == draw(number)[1].tolist()
    Image.new("RGB", (40, 24), (9, 8, 7)).save(root / "train/masks/train-0.png")
    with pytest.raises(ValueError, match=r"train-0\.png: it has colours that are of no class: \(9, 8, 7\)"):
        data[0]


@pytest.mark.parametrize(
    ("lines", "says"),
    [(("a:0,0,0", "b:0,0,0"), "a colour of its own.*'b:0,0,0'"), (("a:0,0,256",), "values up to 255")],
)
def test_colours_that_tell_no_classes_apart(tmp_path, lines, says):
    with pytest.raises(ValueError, match=says):
        load_masks("masks", "train", data_dir=write_folder(tmp_path, classes=lines))


def test_names_with_a_colon_are_names(tmp_path):
    root = write_folder(tmp_path, classes=("soil:0,0,0", "leaf: green"))
    assert load_masks("masks", "train", data_dir=root).classes == ("soil:0,0,0", "leaf: green")


@pytest.mark.parametrize("level", [255, 1])
def test_black_and_white_masks_are_told(tmp_path, level):
    """Programs save two classes as 0 and 255, which is ignored: nothing would be learnt, and nobody told."""
    root = write_folder(tmp_path)
    for path in root.glob("*/masks/*.png"):
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where(ids == 1, level, 0).astype(np.uint8)).save(path)
    if level == 1:
        assert load_masks("masks", "train", data_dir=root)[0][1].unique().tolist() == [0, 1]
        return
    with pytest.raises(ValueError, match=r"hold 0 and 255 alone.*leaf:255,255,255"):
        load_masks("masks", "train", data_dir=root)
    (root / "classes.txt").write_text("\ufeffbackground:0,0,0\nsquare:255,255,255\n")
    data = load_masks("masks", "train", data_dir=root)
    assert (data.classes[0], data[0][1].unique().tolist()) == ("background", [0, 1])


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("masks", "{}.tif"),
        ("masks", "{}.bmp"),
        ("masks", "{}_mask.png"),
        ("labels", "{}.PNG"),
        ("annotations", "{}-seg.png"),
        ("masks", "near/{}.png"),
    ],
)
def test_where_masks_lie_and_what_they_are_called(tmp_path, folder, name):
    inner = "near/" if name.startswith("near") else ""
    for index in range(12):
        image, mask = draw(index)
        for place, pixels in (
            (f"images/{inner}{index}.png", image),
            (f"{folder}/{name.format(index)}", mask),
        ):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / place)
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    assert recognised_data(tmp_path) == "masks"
    data = load_masks("masks", "train", data_dir=tmp_path)
    assert len(data) > 6
    for index in range(len(data)):
        number = int(data.sample_id(index).removesuffix(".png").rpartition("/")[2])
        assert data[index][1].tolist() == draw(number)[1].tolist()


def test_jpeg_changes_ids(tmp_path):
    root = write_folder(tmp_path)
    path = root / "train/masks/train-0.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    with pytest.raises(ValueError, match=r"train-0\.jpg: JPEG changes ids; save masks as PNG"):
        load_masks("masks", "train", data_dir=root)[0]


@pytest.mark.parametrize("lists", [("default",), ("Train", "Validation", "Test")])
def test_cvats_export_of_masks(tmp_path, lists):
    """VOC's folders, own classes with their colours, and one list or one a split."""
    for index in range(9):
        write_pair(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", f"a {index}", index)
        path = tmp_path / "SegmentationClass" / f"a {index}.png"
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where((ids == 1)[..., None], (9, 8, 7), 0).astype(np.uint8)).save(path)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nsoil:0,0,0::\nleaf:9,8,7::\n")
    folder = tmp_path / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    each = 9 // len(lists)
    for place, name in enumerate(lists):
        names = [f"a {index}\n" for index in range(place * each, place * each + each)]
        (folder / f"{name}.txt").write_text("".join(names))
    assert recognised_data(tmp_path) == "voc"
    splits = [load_masks("voc", split, data_dir=tmp_path) for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 9
    assert min(map(len, splits)) > 0
    for data in splits:
        assert data.classes == ("soil", "leaf")
        assert data[0][1].unique().tolist() == [0, 1]
    (folder / f"{lists[0]}.txt").rename(folder / "other.txt")
    if len(lists) > 1:
        with pytest.raises(FileNotFoundError, match="a list of 'train'"):
            load_masks("voc", "train", data_dir=tmp_path)
    (tmp_path / "labelmap.txt").write_text("soil\nleaf\n")
    with pytest.raises(ValueError, match="a class a line and its colour"):
        load_masks("voc", "validation", data_dir=tmp_path)


def test_training_cuts_and_tests_keep_whole_images(tmp_path):
    root = write_folder(tmp_path)
    cut = load_masks("masks", "train", data_dir=root, image_size=16, augment=True)
    assert [tuple(part.shape) for part in cut[0]] == [(3, 16, 16), (16, 16)]
    image, mask = load_masks("masks", "test", data_dir=root, resize=12)[0]
    # The mask keeps its own size: answers are compared there.
    assert (tuple(image.shape), tuple(mask.shape)) == ((3, 12, 20), (24, 40))


def test_voc(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2012"
    for name in ("a", "b"):
        for folder, ending, part in (("JPEGImages", "jpg", 0), ("SegmentationClass", "png", 1)):
            (base / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(0)[part]).save(base / folder / f"{name}.{ending}")
    lists = base / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    assert recognised_data(tmp_path) == recognised_data(base) == "voc"
    for root in (tmp_path, base):
        data = load_masks("voc", "train", data_dir=root)
        assert (len(data), data.classes) == (1, VOC)
        assert data.sample_id(0).endswith("a.jpg")
    # Its test has no masks in public.
    assert load_masks("voc", "test", data_dir=base).sample_id(0).endswith("b.jpg")
    (base / "SegmentationClass/b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png is missing"):
        load_masks("voc", "validation", data_dir=base)


def test_ids_of_cityscapes(tmp_path):
    for folder, ending, part in (("leftImg8bit", "leftImg8bit", 0), ("gtFine", "gtFine_labelIds", 1)):
        place = tmp_path / folder / "val/bonn"
        place.mkdir(parents=True)
        image = Image.fromarray(draw(0)[0]) if part == 0 else Image.new("L", (40, 24), 26)
        if part:
            # Road, an id that is not evaluated, an id beyond all, and the last class.
            for column, number in enumerate((7, 5, 200, 33)):
                image.putpixel((column, 0), number)
        image.save(place / f"bonn_0_0_{ending}.png")
    assert recognised_data(tmp_path) == "cityscapes"
    data = load_masks("cityscapes", "validation", data_dir=tmp_path)
    mask = data.read(0)[1]
    assert mask[0, :4].tolist() == [0, IGNORED, IGNORED, 18]
    assert data.classes[int(mask[1, 0])] == "car"
    assert len(data.classes) == len(CITYSCAPES) == 19


def test_ids_of_ade20k(tmp_path):
    for folder, ending in (("images", "jpg"), ("annotations", "png")):
        place = tmp_path / folder / "training"
        place.mkdir(parents=True)
        image = Image.fromarray(draw(0)[0]) if folder == "images" else Image.new("L", (40, 24), 3)
        if folder == "annotations":
            for column, number in enumerate((0, 1, 150)):
                image.putpixel((column, 0), number)
        image.save(place / f"x.{ending}")
    assert recognised_data(tmp_path) == "ade20k"
    data = load_masks("ade20k", "train", data_dir=tmp_path)
    mask = data.read(0)[1]
    assert mask[0, :3].tolist() == [IGNORED, 0, 149]
    assert (data.classes[int(mask[1, 0])], len(data.classes)) == ("sky", len(ADE20K))


def test_folders_are_recognised(tmp_path):
    assert recognised_data(write_folder(tmp_path / "splits")) == "masks"
    write_pair(tmp_path / "flat/images", tmp_path / "flat/masks", "a", 0)
    assert recognised_data(tmp_path / "flat") == "masks"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "segmentation", "data": "digits"}, "task must be 'classification' with data='digits'"),
        ({"task": "classification", "data": "masks"}, "task must be 'segmentation' with data='masks'"),
        ({"task": "segmentasion"}, "did you mean 'segmentation'"),
    ],
)
def test_a_task_that_is_not_the_datas(settings, says):
    with pytest.raises(ValueError, match=says):
        DataSettings(**settings)


def test_settings_without_effect_on_what_is_generated():
    for name in ("segment-cue", "segment-legend"):
        with pytest.raises(ValueError, match=f"data_dir has no effect on '{name}'"):
            load_masks(name, "train", data_dir="x")
    with pytest.raises(ValueError, match="name must be one of"):
        load_masks("segmentcue", "train")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("# id a line\nbackground\nsquare\n", "take the line '# id a line' out"),
        ("1 background\n2 square\n", "'1 background' would be that of id 0: put the lines in order"),
        ("1: square\n0: background\n", "'1: square' would be that of id 0"),
    ],
    ids=["comment", "from 1 on", "turned round"],
)
def test_lines_that_would_give_classes_other_ids(tmp_path, lines, says):
    root = write_folder(tmp_path)
    (root / "classes.txt").write_text(lines)
    with pytest.raises(ValueError, match=says):
        load_masks("masks", "train", data_dir=root)


def test_classes_that_begin_with_numbers(tmp_path):
    root = write_folder(tmp_path, classes=("0 background", "1 square"))
    assert load_masks("masks", "train", data_dir=root).classes == ("0 background", "1 square")
    (root / "classes.txt").write_text("background\n2 euro\n")
    assert load_masks("masks", "train", data_dir=root).classes == ("background", "2 euro")
    (root / "classes.txt").write_text("1 cent\n2 cent\n")
    assert load_masks("masks", "train", data_dir=root).classes == ("1 cent", "2 cent")


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_mask_is_turned_as_its_image_is(tmp_path, orientation):
    pixels, ids = draw(0)
    note = Image.Exif()
    note[274] = orientation
    for folder, content in (("images", pixels), ("masks", ids)):
        (tmp_path / folder / "train").mkdir(parents=True)
        Image.fromarray(content).save(tmp_path / folder / "train/a.png", exif=note)
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    image, mask = load_masks("masks", "train", data_dir=tmp_path).read(0)
    assert bool(((image[0] > 0.5) == (mask == 1)).all())


def test_two_folders_of_one_split(tmp_path):
    root = write_folder(tmp_path)
    write_pair(root / "images/train", root / "masks/train", "a", 0)
    with pytest.raises(ValueError, match=r"one folder of 'train'; it has .*train/images and .*images/train"):
        load_masks("masks", "train", data_dir=root)


def test_images_beside_folders_of_splits_are_told(tmp_path):
    for split in ("train", "test"):
        write_pair(tmp_path / "images" / split, tmp_path / "masks" / split, "a", 0)
    write_pair(tmp_path / "images", tmp_path / "masks", "b", 1)
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    with pytest.warns(UserWarning, match=r"1 entry of .* is passed over, .*: \.png \(1\); first .*images/b"):
        assert len(load_masks("masks", "train", data_dir=tmp_path)) == 1
