"""Points of objects as a task: their figures are pycocotools', and a small network learns where they are."""

import json

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from keypoint_pictures import write_keypoints
from nonlocalnn.checkpoints import CheckpointError, read_metadata
from nonlocalnn.data.objects import Marked, PointNames, Sheet
from nonlocalnn.data.objects.annotated import AnnotatedImages
from nonlocalnn.inference import load_detector
from nonlocalnn.tasks.correct_points import correct_points
from nonlocalnn.tasks.object_figures import _sigmas
from nonlocalnn.tasks.objects import evaluate_objects
from nonlocalnn.train import DetectionTask, Recipe, train
from tolerances import near

PERSON = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)


class Figures(AnnotatedImages):
    """Images in memory whose objects have random points, some of them not marked."""

    def __init__(self, number, names):
        super().__init__(
            classes=("person",), sample_shape=(3, 200, 300), has_masks=False, points=PointNames(names)
        )
        generator = torch.Generator().manual_seed(0)
        self.sheets = []
        for index in range(number):
            objects = []
            for _ in range(int(torch.randint(0, 5, (), generator=generator))):
                left, top, width, height = (torch.rand(4, generator=generator) * 90 + 5).tolist()
                places = torch.rand(len(names), 2, generator=generator)
                visible = torch.randint(0, 3, (len(names),), generator=generator).tolist()
                if torch.rand((), generator=generator) < 0.1:
                    visible = [0] * len(names)
                points = [
                    (left + x * width, top + y * height, seen)
                    for (x, y), seen in zip(places.tolist(), visible, strict=True)
                ]
                objects.append(
                    Marked(1, (left, top, width, height), area=0.6 * width * height, points=points)
                )
            self.sheets.append(Sheet(index + 1, f"{index}.png", 200, 300, tuple(objects)))

    def __len__(self):
        return len(self.sheets)

    def sheet(self, index):
        return self.sheets[index]

    def image(self, index):
        return torch.full((3, 200, 300), index / 1000)

    def sample_id(self, index):
        return str(index)


class Guessing(nn.Module):
    """Gives the points of an image moved by some pixels, and an object that is none."""

    def __init__(self, data, off=3.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.data, self.off = data, off

    def forward(self, images):
        index = round(float(images[0][0, 0, 0]) * 1000)
        generator = torch.Generator().manual_seed(index)
        target = self.data._target(self.data.sheet(index))
        points = target["keypoints"].clone()
        points[:, :, :2] += self.off * torch.randn(points[:, :, :2].shape, generator=generator)
        boxes = torch.cat([target["boxes"], torch.tensor([[1.0, 1, 20, 20]])])
        points = torch.cat([points, torch.ones(1, *points.shape[1:])])
        scores = torch.rand(len(boxes), generator=generator).sort(descending=True).values
        labels = torch.ones(len(boxes), dtype=torch.int64)
        return [{"boxes": boxes, "labels": labels, "scores": scores, "keypoints": points}]


@pytest.mark.parametrize("names", [PERSON, ("a", "b", "c", "d")], ids=["COCO", "others"])
def test_figures_are_pycocotools(names, tmp_path):
    data = Figures(60, names)
    figures, results = evaluate_objects(Guessing(data), data)
    values = figures.to_dict()
    (tmp_path / "truth.json").write_text(json.dumps(data.truth()))
    (tmp_path / "results.json").write_text(json.dumps(results["keypoints"]))
    # From files alone, as another tool scores them; of 17 points with the constants that it has by itself.
    marked = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(marked, marked.loadRes(str(tmp_path / "results.json")), "keypoints")
    if names == PERSON:
        assert evaluation.params.kpt_oks_sigmas.tolist() == near(_sigmas(names).tolist())
    else:
        evaluation.params.kpt_oks_sigmas = torch.full((4,), 0.05).double().numpy()
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    order = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
    for place, each in enumerate(order):
        found = values[f"keypoint_{each}"]
        assert (-1.0 if found is None else found) == near(evaluation.stats[place])
    assert 0.1 < values["keypoint_ap"] < 0.95
    assert f"keypoint AP {values['keypoint_ap']:.4f}, correct keypoints 0." in figures.describe("x")
    title, row = figures.per_class_table().splitlines()
    assert (title.split()[-2:], len(title)) == (["keypoint", "AP"], len(row))


def test_correct_points_are_near_their_place_on_the_object_that_was_found():
    marked = {"image_id": 3, "category_id": 1, "iscrowd": 0}
    objects = [
        # Their longer sides are 20 and 40 pixels: a point may be 2 and 4 pixels off. The last is not marked.
        {**marked, "bbox": [0, 0, 10, 20], "keypoints": [5, 5, 2, 5, 15, 1, 0, 0, 0]},
        {**marked, "bbox": [50, 0, 40, 30], "keypoints": [60, 5, 2, 80, 15, 2, 0, 0, 0]},
        {**marked, "bbox": [50, 50, 20, 20], "iscrowd": 1, "keypoints": [60, 60, 2, 60, 60, 2, 60, 60, 2]},
    ]
    truth = {"annotations": objects}

    def shares(*results):
        return correct_points(truth, [{**marked, **each} for each in results])

    first = {"bbox": [0, 0, 10, 18], "score": 0.5, "keypoints": [5, 7, 1, 5, 17.1, 1, 9, 9, 1]}
    second = {"bbox": [51, 0, 40, 30], "score": 0.4, "keypoints": [60, 1, 1, 80, 15, 1, 9, 9, 1]}
    swapped = {**second, "score": 0.8, "keypoints": [80, 15, 1, 60, 5, 1, 9, 9, 1]}
    elsewhere = {**second, "bbox": [80, 0, 40, 30], "score": 0.9}
    for results, expected in (
        ((first, second), [1.0, 0.5]),
        ((), [0.0, 0.0]),
        # The best of two results is the object's, the other one is nobody's.
        ((first, second, swapped), [0.5, 0.0]),
        # Half of both boxes must be common; and results on another image or of another class are of others.
        ((elsewhere,), [0.0, 0.0]),
        (({**first, "image_id": 4}, {**second, "category_id": 2}), [0.0, 0.0]),
    ):
        found = shares(*results)
        assert (found[:2], len(found), found[2] != found[2]) == (expected, 3, True)


def test_points_that_are_right_score_1():
    data = Figures(10, ("a", "b"))
    values = evaluate_objects(Guessing(data, off=0), data)[0].to_dict()
    assert values["keypoint_pck_by_point"] == {"a": 1.0, "b": 1.0}
    assert values["keypoint_pck"] == 1.0
    far = evaluate_objects(Guessing(data, off=30), data)[0]
    assert f"correct keypoints {far.to_dict()['keypoint_pck']:.4f} on 10 images" in far.describe("x")
    assert 0 < far.to_dict()["keypoint_pck"] < 0.5
    assert evaluate_objects(Guessing(data, off=0), data)[0].to_dict()["keypoint_ar50"] == near(1.0)
    model = Guessing(data)
    model.num_keypoints = 5
    with pytest.raises(ValueError, match="must find the 2 keypoints of this data set; it finds 5"):
        evaluate_objects(model, data)
    # A detector of boxes is scored by its boxes.
    model.num_keypoints = 0
    assert "keypoint_ap" not in evaluate_objects(model, data)[0].to_dict()


def test_the_data_decides_network_and_score(tmp_path):
    task = DetectionTask(Recipe(data="coco-keypoints", data_dir=write_keypoints(tmp_path / "data")))
    assert (task.recipe.model, task.recipe.resize) == ("nl2head1_keypointrcnn_tiny", 256)
    assert task.metric == "keypoint_ap"
    assert DetectionTask(Recipe(data="keypoint-cue")).recipe.model == "nl2head1_keypointrcnn_tiny"
    assert DetectionTask(Recipe(data="detect-cue")).metric == "box_ap"
    boxes = DetectionTask(Recipe(data="coco-keypoints", data_dir=tmp_path / "data", model="fasterrcnn_tiny"))
    with pytest.raises(ValueError, match=r"finds no keypoints of an object, and 'coco-keypoints' has 3"):
        boxes.model(boxes.data("train"))
    points = DetectionTask(Recipe(data="coco", data_dir=tmp_path / "data", model="keypointrcnn_tiny"))
    with pytest.raises(ValueError, match=r"finds 3 keypoints of an object, and 'coco' has none: choose a"):
        points.model(points.data("train"))


def test_a_split_without_a_point(tmp_path):
    def hidden(content):
        for each in content["annotations"]:
            each["keypoints"] = [0] * 9

    root = write_keypoints(tmp_path, change=hidden)
    with pytest.raises(ValueError, match="no keypoint is marked on the 8 images of train"):
        DetectionTask(Recipe(data="coco-keypoints", data_dir=root)).data("train")


def test_a_checkpoint_remembers_the_points(tmp_path):
    root = write_keypoints(tmp_path / "data", train=4, others=1)
    settings = {"resize": 48, "batch_size": 2, "device": "cpu", "lr": 1e-3, "seed": 3, "epochs": 1}
    recipe = Recipe(data="coco-keypoints", data_dir=root, output=tmp_path / "run", **settings)
    result = train(recipe, progress=False)
    assert result.metric == "keypoint_ap"
    log = (tmp_path / "run/log.csv").read_text()
    assert "loss_keypoint" in log
    loaded = load_detector(tmp_path / "run")
    assert loaded.points == PointNames(("middle", "left_edge", "right_edge"), ((1, 0), (0, 2)))
    facts = read_metadata(tmp_path / "run/best.safetensors")
    assert facts["keypoints"]["skeleton"] == [[1, 0], [0, 2]]
    from nonlocalnn import save_checkpoint

    wrong = {**facts, "keypoints": {"names": ["a"], "skeleton": []}}
    save_checkpoint(loaded.model, tmp_path / "wrong.safetensors", metadata=wrong)
    with pytest.raises(CheckpointError, match="keypoints names 1 of a model with 3"):
        load_detector(tmp_path / "wrong.safetensors")


@pytest.mark.slow
def test_it_learns(tmp_path):
    """Eight pictures by heart: their edges are found, each on its side, mirrored images or not."""
    root = write_keypoints(tmp_path / "data", train=8, others=2)
    recipe = Recipe(
        data="coco-keypoints",
        data_dir=root,
        output=tmp_path / "run",
        resize=96,
        batch_size=4,
        device="cpu",
        lr=2e-3,
        optimizer="adamw",
        epochs=60,
    )
    result = train(recipe, progress=False)
    assert result.test["keypoint_ap50"] > 0.8
