"""Volumes with masks that a ``dataset.json`` lists, as the Decathlon and MONAI write it."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from data.volume_files import AFFINE, ball, write_nifti
from nonlocalnn.data.folder_files import split_of
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.data.volumes.datalist import pairs_of, read_datalist
from nonlocalnn.data.volumes.masked import load_volume_masks

pytest.importorskip("nibabel", reason="needs nibabel")
LABELS = {"0": "background", "1": "ball"}


def items(folder, names, *, part="Tr"):
    """Write small volumes with masks, and return how a list names them."""
    found = []
    for number, name in enumerate(names):
        values, mask = ball(np.random.default_rng(number), sides=(9, 10, 12), radius=2.5)
        write_nifti(folder / f"images{part}/{name}.nii.gz", values, dtype=np.float32)
        write_nifti(folder / f"labels{part}/{name}.nii.gz", mask, dtype=np.uint8)
        paths = {"image": f"./images{part}/{name}.nii.gz", "label": f"./labels{part}/{name}.nii.gz"}
        found.append(paths)
    return found


def write(folder, **content):
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, **content}))
    return folder


@pytest.fixture(scope="module")
def decathlon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Task99_Ball")
    training = items(folder, [f"ball_{number:03}" for number in range(12)])
    write_nifti(folder / "imagesTs/ball_900.nii.gz", np.zeros((9, 10, 12)), dtype=np.float32)
    (folder / "imagesTr/._ball_000.nii.gz").write_bytes(b"a Mac's leftover")
    return write(folder, training=training, test=["./imagesTs/ball_900.nii.gz"], modality={"0": "CT"})


def names_of(folder, split):
    return [image.name for image, _ in read_datalist(folder, split)[0]]


def test_the_decathlon_is_recognised_and_divided_by_its_paths(decathlon):
    assert recognised_data(decathlon) == "volume-masks"
    parts = {split: names_of(decathlon, split) for split in ("train", "validation", "test")}
    assert sorted(name for names in parts.values() for name in names) == [
        f"ball_{number:03}.nii.gz" for number in range(12)
    ]
    assert all(parts.values())
    for split, names in parts.items():
        # Where chance left a split without any, one was moved there.
        assert len(names) == 1 or {split_of(f"imagesTr/{name}") for name in names} == {split}


def test_a_list_gives_volumes_as_folders_do(decathlon):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_volume_masks(decathlon, "train", image_size=8)
    assert data.classes == ("background", "ball")
    assert data.num_volumes == len(names_of(decathlon, "train"))
    sampled, mask = data.open(0)
    assert sampled.volume.is_oriented
    assert np.allclose(sorted(sampled.volume.spacing), sorted(np.abs(np.diag(AFFINE)[:3])))
    assert mask.sides == sampled.volume.sides


def test_lists_of_splits_with_labels_are_taken_as_they_are(tmp_path):
    training = items(tmp_path, "abcdefghijkl")
    others = items(tmp_path, "xy", part="Ts")
    write(tmp_path, training=training, validation=others[:1], testing=others[1:])
    assert names_of(tmp_path, "validation") == ["x.nii.gz"]
    assert names_of(tmp_path, "test") == ["y.nii.gz"]
    assert len(names_of(tmp_path, "train")) == 12
    # What has no list comes from that for training, and is in it no more.
    write(tmp_path, training=training, testing=others[1:], labels={"ball": 1, "background": 0})
    assert names_of(tmp_path, "test") == ["y.nii.gz"]
    kept, held_out = names_of(tmp_path, "train"), names_of(tmp_path, "validation")
    assert held_out
    assert sorted(kept + held_out) == [f"{name}.nii.gz" for name in "abcdefghijkl"]
    assert read_datalist(tmp_path, "test")[1] == ["background", "ball"]


def test_dictionaries_in_memory(tmp_path):
    listed = items(tmp_path, "a")
    assert pairs_of([{**listed[0], "fold": 0}], tmp_path) == [
        (tmp_path / "imagesTr/a.nii.gz", tmp_path / "labelsTr/a.nii.gz")
    ]
    absolute = {key: str(tmp_path / value) for key, value in listed[0].items()}
    assert pairs_of([absolute], Path("elsewhere"))[0][0] == tmp_path / "imagesTr/a.nii.gz"


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        ("{", ValueError, "is no JSON"),
        ("[]", ValueError, "must hold an object"),
        ({"training": [{"image": "a.nii", "label": "b.nii"}]}, FileNotFoundError, "there is no file .*a.nii"),
        ({"training": ["a.nii"]}, ValueError, "each item of 'training' .* must have an image and its label"),
        ({"training": [{"image": ["a", "b"], "label": "c"}]}, ValueError, "volumes of several files are not"),
        (
            {"file_ending": ".nii"},
            ValueError,
            "must have a list 'training' .* nnU-Net's second version",
        ),
        ({"training": {}}, ValueError, "'training' of .* must be a list"),
        (
            {"training": []},
            ValueError,
            "none of the 0 volumes .* falls to 'train': list some under 'training'",
        ),
        ({"training": [], "labels": {"1": "a"}}, ValueError, "must name the class of each id from 0 on"),
        ({"training": [], "labels": {"a": [1, 2]}}, ValueError, "must name the class of each id from 0 on"),
        ({"training": [], "labels": None}, ValueError, "must name the class of each id from 0 on"),
    ],
)
def test_what_is_wrong_with_a_list(tmp_path, content, error, says):
    if isinstance(content, str):
        (tmp_path / "dataset.json").write_text(content)
    else:
        write(tmp_path, **content)
    with pytest.raises(error, match=says):
        read_datalist(tmp_path, "train")


def test_a_damaged_list_is_not_taken_for_classes(tmp_path):
    items(tmp_path, "a")
    (tmp_path / "dataset.json").write_text("{")
    assert recognised_data(tmp_path) == "volume-masks"
    with pytest.raises(ValueError, match=r"dataset\.json is no JSON"):
        load_volume_masks(tmp_path, "train")
    # As nnU-Net writes it now.
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}')
    assert recognised_data(tmp_path) == "volume-masks"
    (tmp_path / "dataset.json").unlink()
    assert recognised_data(tmp_path) == "volume-masks"
    with pytest.raises(FileNotFoundError, match=r"must hold dataset\.json, .* it is missing"):
        load_volume_masks(tmp_path, "train")


def test_a_list_from_windows(tmp_path):
    training = [
        {key: path.replace("/", "\\") for key, path in item.items()} for item in items(tmp_path, "abc")
    ]
    folder = write(tmp_path, training=training)
    names = [name for split in ("train", "validation", "test") for name in names_of(folder, split)]
    assert sorted(names) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


@pytest.mark.parametrize("folder", ["", "{root}/", "imagesTr/../"])
def test_a_volume_of_two_splits(tmp_path, folder):
    found = items(tmp_path, ["a", "b"])
    folder = folder.format(root=tmp_path)
    other = {name: folder + path.removeprefix("./") for name, path in found[1].items()}
    write(tmp_path, training=found, validation=[other])
    with pytest.raises(
        ValueError, match=r"dataset\.json must list nothing that training has; .*b\.nii\.gz is of"
    ):
        read_datalist(tmp_path, "train")


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize("split", ["training", "test"])
def test_a_file_of_two_volumes(tmp_path, key, split):
    first, second, third = items(tmp_path, ["a", "b", "c"])
    lists = {"training": [first, second], "test": [third]}
    lists[split] = [*lists[split], second | {key: first[key]}]
    with pytest.raises(ValueError, match=r"a label of its own; .* is listed with several"):
        read_datalist(write(tmp_path, **lists), "train")


def test_a_volume_that_is_listed_twice_alike(tmp_path):
    first, second, third = items(tmp_path, ["a", "b", "c"])
    folder = write(tmp_path, training=[first, first, second], validation=[third], test=[third])
    assert names_of(folder, "train") == ["a.nii.gz", "a.nii.gz", "b.nii.gz"]
