"""Points of objects: COCO's files of them, what a mirror does to them, what is refused, generated cards."""

import json

import pytest
import torch

from keypoint_pictures import NAMES, figure, write_keypoints
from nonlocalnn.data.objects import PointNames, load_objects
from nonlocalnn.data.objects.annotated import mirrored
from nonlocalnn.data.objects.points import checked_points
from nonlocalnn.data.recognition import recognised_data
from tolerances import assert_same

# COCO's own, in their order.
PERSON = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)


def test_points_are_read_with_their_names(tmp_path):
    root = write_keypoints(tmp_path)
    assert recognised_data(root) == "coco-keypoints"
    data = load_objects("coco-keypoints", "train", data_dir=root)
    assert (data.points.names, data.points.skeleton) == (tuple(NAMES), ((1, 0), (0, 2)))
    assert not data.has_masks
    _, target = data[3]
    assert target["keypoints"].flatten().tolist() == figure(3)[2]
    truth = data.truth()
    assert truth["categories"] == [
        {"id": 4, "name": "square", "keypoints": NAMES, "skeleton": [[2, 1], [1, 3]]}
    ]
    assert (truth["annotations"][3]["keypoints"], truth["annotations"][3]["num_keypoints"]) == (
        figure(3)[2],
        3,
    )
    # The same files without their points.
    assert load_objects("coco", "train", data_dir=root).points is None


def test_cocos_own_file_of_persons(tmp_path):
    root = write_keypoints(tmp_path / "parts")
    (tmp_path / "annotations").mkdir()
    for split, folder in (("train2017", "train"), ("val2017", "valid")):
        (root / folder).rename(tmp_path / split)
        (tmp_path / split / "_annotations.coco.json").rename(
            tmp_path / f"annotations/person_keypoints_{split}.json"
        )
    assert recognised_data(tmp_path) == "coco-keypoints"
    assert len(load_objects("coco-keypoints", "test", data_dir=tmp_path)) == 3
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json"):
        load_objects("coco", "train", data_dir=tmp_path)


@pytest.mark.parametrize("number", ["4", 4.0])
def test_ids_of_categories_that_are_no_whole_numbers(tmp_path, number):
    """The category with the points is that of its number, however that is written."""
    root = write_keypoints(tmp_path, change=lambda content: content["categories"][0].update(id=number))
    data = load_objects("coco-keypoints", "train", data_dir=root)
    assert (data.class_ids, data.points.names) == ((4,), tuple(NAMES))


def test_left_and_right_change_places_in_a_mirror(tmp_path):
    data = load_objects("coco-keypoints", "train", data_dir=write_keypoints(tmp_path))
    image, target = data[2]
    once_image, once = mirrored(image, target, data.points.swapped())
    (middle, left, right), (height, width) = once["keypoints"][0].long().tolist(), image.shape[1:]
    # What looks like the left edge after the mirror has the name of the right one, and so its colour.
    assert once_image[:, left[1], left[0]].argmax() == 2
    assert once_image[:, right[1], right[0]].argmax() == 0
    assert (left[0], right[0]) == (width - 1 - figure(2)[2][6], width - 1 - figure(2)[2][3])
    # The visibility goes with the point.
    assert (middle[2], left[2], right[2]) == (2, figure(2)[2][8], 2)
    assert height == 32
    again_image, again = mirrored(once_image, once, data.points.swapped())
    assert_same(again_image, image)
    assert_same(again["keypoints"], target["keypoints"])
    # What is not marked stays at the origin, as COCO has it.
    target["keypoints"][0, 1] = 0
    assert mirrored(image, target, data.points.swapped())[1]["keypoints"][0, 2].tolist() == [0, 0, 0]
    halves = load_objects("coco-keypoints", "train", data_dir=tmp_path, augment=True)
    xs = {halves[2][1]["keypoints"][0, 1, 0].item() for _ in range(20)}
    assert len(xs) == 2


@pytest.mark.parametrize(
    ("names", "swapped"),
    [
        # After the nose they come in pairs, the left one first.
        (PERSON, [0, *(place + 1 if place % 2 else place - 1 for place in range(1, 17))]),
        (("Left Eye", "Right Eye", "chin"), [1, 0, 2]),
        (("eye-left", "leftover", "eye-right"), [2, 1, 0]),
        (("leftEye", "rightEye", "earLeft", "earRight"), [1, 0, 3, 2]),
        (("lefteye", "righteye", "lefthand"), [1, 0, 2]),
        (("L_eye", "R_eye", "hip.l", "hip.r", "l_only", "nose"), [1, 0, 3, 2, 4, 5]),
        (("0", "1"), [0, 1]),
    ],
    ids=["COCO", "words", "endings", "humps", "joined", "letters", "numbers"],
)
def test_pairs_follow_from_names(names, swapped):
    found = PointNames(tuple(names)).swapped()
    assert found == swapped
    assert [found[place] for place in found] == list(range(len(names)))


def test_a_side_without_the_other(tmp_path):
    def alone(content):
        content["categories"][0]["keypoints"] = ["middle", "left_edge", "edge"]

    root = write_keypoints(tmp_path, change=alone)
    assert len(load_objects("coco-keypoints", "train", data_dir=root)) == 8
    with pytest.raises(ValueError, match=r"'left_edge' needs 'right_edge', .* augment=False"):
        load_objects("coco-keypoints", "train", data_dir=root, augment=True)


def first(**changes):
    return lambda content: content["annotations"][0].update(changes)


def category(**changes):
    return lambda content: content["categories"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            first(keypoints=[1, 2, 2]),
            r"annotation 1: train-0.png: keypoints must be 3 times x, y, visibility",
        ),
        (first(keypoints=[1, 2, 3] * 3), "visibility of 0, 1 or 2; got \\[1, 2, 3\\]"),
        (first(keypoints=[None, 2, 2] * 3), "a keypoint must be x, y and a visibility"),
        (first(keypoints=[60, 2, 2] * 3), r"its keypoint \[60, 2\] lies outside the image, 48 x 32"),
        (category(keypoints=[]), "category 'square' must name its keypoints"),
        (category(keypoints=["a", "a", "b"]), "keypoints must have different names; got a, a, b"),
        (category(skeleton=5), "names and skeleton of keypoints must be lists"),
        (category(skeleton=[[1, 4]]), r"skeleton must be pairs of the 3 keypoints, from 1 on; got \[1, 4\]"),
        (category(skeleton=[[0, 1]]), r"skeleton must be pairs of the 3 keypoints, from 1 on; got \[0, 1\]"),
        (
            lambda content: content["categories"].append({"id": 9, "name": "x", "keypoints": ["a"]}),
            "all categories must have the same keypoints, which one head finds; 'x' has others than 'square'",
        ),
    ],
)
def test_points_with_a_fault_are_named(tmp_path, change, says):
    with pytest.raises(ValueError, match=says) as raised:
        load_objects("coco-keypoints", "train", data_dir=write_keypoints(tmp_path, change=change))
    assert "\n" not in str(raised.value)


def test_objects_without_points(tmp_path):
    """They are found as boxes, and count for no point; what is not marked may hold anything."""

    def less(content):
        del content["annotations"][0]["keypoints"]
        content["annotations"][1]["keypoints"] = [999, 999, 0] * 3
        for each in content["annotations"][:2]:
            each["image_id"] = content["annotations"][2]["image_id"]

    root = write_keypoints(tmp_path, change=less)
    # Of images alone that have none training is not made.
    with pytest.warns(UserWarning, match="2 of 8 images have no marked keypoint; training leaves them out"):
        data = load_objects("coco-keypoints", "train", data_dir=root)
    assert (len(data), data.sample_id(0)) == (6, str(root / "train/train-2.png"))
    assert data[0][1]["keypoints"][:2].tolist() == [[[0.0, 0, 0]] * 3] * 2
    assert len(load_objects("coco", "train", data_dir=write_keypoints(tmp_path / "all"))) == 8
    assert [each["num_keypoints"] for each in data.truth()["annotations"][:3]] == [0, 0, 3]


def test_names_come_back_from_a_file():
    points = PointNames(("a", "b"), ((0, 1),))
    assert PointNames.from_dict(json.loads(json.dumps(points.to_dict()))) == points
    for wrong in (None, {"names": ["a"]}, {"names": "ab", "skeleton": []}, {"names": [], "skeleton": []}):
        with pytest.raises(ValueError, match=r"keypoints must|names and skeleton"):
            PointNames.from_dict(wrong)


def test_cards_are_the_same_each_time_and_drawn_anew_in_training():
    data = load_objects("keypoint-cue", "test")
    image, target = data[4]
    assert_same(data.image(4), image)
    assert_same(data[4][1]["keypoints"], target["keypoints"])
    assert (len(data), image.shape, data.classes) == (200, (3, 96, 128), ("card",))
    for index in range(20):
        image, target = data[index]
        assert 2 <= len(target["boxes"]) <= 4
        for box, points in zip(target["boxes"].tolist(), target["keypoints"].tolist(), strict=True):
            (x, y), *_ = [(round(x), round(y)) for x, y, _ in points]
            colour = image[:, y, x].argmax()
            # The digit of a point has ink of its colour, and none of the other's.
            for (px, py, visible), wanted in zip(points[1:], (colour, 1 - colour), strict=True):
                around = image[:2, int(py) - 6 : int(py) + 8, int(px) - 6 : int(px) + 8]
                assert (around[wanted] > around[1 - wanted] + 0.3).any()
                assert not (around[1 - wanted] > around[wanted] + 0.3).any()
                assert visible == 2
                assert box[0] < px < box[2]
                assert box[1] < py < box[3]
    drawn = load_objects("keypoint-cue", "train", augment=True)
    torch.manual_seed(0)
    assert not torch.equal(drawn[0][0], drawn[0][0])
    with pytest.raises(ValueError, match="data_dir has no effect on 'keypoint-cue'"):
        load_objects("keypoint-cue", "train", data_dir="x")


@pytest.mark.parametrize("anything", [None, float("nan"), -5, "x"])
def test_of_a_point_that_is_not_marked_a_file_may_hold_anything(anything):
    found = checked_points([anything, anything, 0, 8, 30, 1], 2, "a", 60, 50)
    assert found == ((0.0, 0.0, 0), (8.0, 30.0, 1))
    with pytest.raises(ValueError, match="must be x, y and a visibility"):
        checked_points([None, 3, 1, 8, 30, 1], 2, "a", 60, 50)


def test_points_as_text():
    assert checked_points(["3", "4.5", "2", "x", "y", "0"], 2, "a", 60, 50) == ((3, 4.5, 2), (0, 0, 0))
    with pytest.raises(ValueError, match="a keypoint must be x, y and a visibility"):
        checked_points(["3", "nan", "2"], 1, "a", 60, 50)
