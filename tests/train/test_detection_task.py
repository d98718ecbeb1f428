"""Detection as a task: losses, figures, groups of formats, and a run that is stopped and goes on."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_task import assert_identical, final_state
from torch import nn

from nonlocalnn._device import moved
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.data.objects import Marked, Sheet
from nonlocalnn.data.objects.annotated import AnnotatedImages
from nonlocalnn.tasks.choice import task_of, trained_task
from nonlocalnn.tasks.objects import evaluate_objects, found_objects, in_kinds
from nonlocalnn.train import ClassificationTask, DetectionTask, Recipe, train
from nonlocalnn.train.few_samples import fitted_recipe
from nonlocalnn.train.order import epoch_order, grouped
from object_pictures import write_roboflow
from tolerances import assert_near, near

# A few steps of a tiny network on tiny pictures.
SMALL = {"resize": 64, "batch_size": 2, "device": "cpu", "model": "nl1_maskrcnn_tiny"}


def recipe_of(root, output, **changes):
    settings = {"data": "coco", "data_dir": root, "output": output, "epochs": 2, "lr": 1e-3, **SMALL}
    return Recipe(**{**settings, "seed": 3, **changes})


class Painted(AnnotatedImages):
    """Images in memory whose objects are random boxes."""

    def __init__(self, number, *, classes=("a", "b", "c"), class_ids=(2, 5, 90), has_masks=True):
        super().__init__(classes=classes, class_ids=class_ids, sample_shape=(3, 40, 60), has_masks=has_masks)
        generator = torch.Generator().manual_seed(0)
        self.sheets = []
        for index in range(number):
            objects = []
            for _ in range(int(torch.randint(0, 12, (), generator=generator))):
                left, top, width, height = (torch.rand(4, generator=generator) * 20).tolist()
                box = (left, top, width + 2, height / 2 + 2)
                shape = [[left, top, left + width + 2, top, left, top + height / 2 + 2]]
                label = int(torch.randint(1, 4, (), generator=generator))
                is_crowd = bool(torch.rand((), generator=generator) < 0.1)
                objects.append(Marked(label, box, shape if has_masks else None, is_crowd))
            self.sheets.append(Sheet(3 * index + 1, f"{index}.png", 40, 60, tuple(objects)))

    def __len__(self):
        return len(self.sheets)

    def sheet(self, index):
        return self.sheets[index]

    def image(self, index):
        return torch.full((3, 40, 60), index / 1000)

    def sample_id(self, index):
        return str(index)


class Guessing(nn.Module):
    """Gives the boxes of an image moved by a little, some of another class, and some of nothing."""

    def __init__(self, data):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.data = data

    def forward(self, images):
        index = round(float(images[0][0, 0, 0]) * 1000)
        generator = torch.Generator().manual_seed(index)
        target = self.data._target(self.data.sheet(index))
        boxes = target["boxes"] + torch.randn(len(target["boxes"]), 4, generator=generator)
        boxes = torch.cat([boxes, torch.tensor([[1.0, 1, 20, 20]])]).clamp(min=0)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
        labels = torch.cat([target["labels"], torch.tensor([1])])
        wrong = torch.rand(len(labels), generator=generator) < 0.2
        labels = torch.where(wrong, labels % 3 + 1, labels)
        masks = torch.cat([target["masks"], torch.ones(1, 40, 60, dtype=torch.uint8)])
        scores = torch.rand(len(labels), generator=generator).sort(descending=True).values
        return [{"boxes": boxes, "labels": labels, "scores": scores, "masks": masks[:, None].float()}]


def by_pycocotools(truth, results, kind):
    marked = COCO()
    marked.dataset = json.loads(json.dumps(truth))
    marked.createIndex()
    evaluation = COCOeval(marked, marked.loadRes(json.loads(json.dumps(results))), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def test_figures_are_pycocotools(tmp_path, capsys):
    """300 images; and the results, written to a file, score the same by it alone."""
    data = Painted(300)
    figures, results = evaluate_objects(Guessing(data), data)
    values = figures.to_dict()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
    (tmp_path / "truth.json").write_text(json.dumps(data.truth()))
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        assert len(results[kind]) > 1500
        stats = by_pycocotools(data.truth(), results[kind], kind)
        for place, each in enumerate(names):
            found = values[f"{name}_{each}"]
            assert (-1.0 if found is None else found) == stats[place]
        (tmp_path / "results.json").write_text(json.dumps(results[kind]))
        from_file = COCO(str(tmp_path / "truth.json"))
        again = COCOeval(from_file, from_file.loadRes(str(tmp_path / "results.json")), kind)
        again.evaluate()
        again.accumulate()
        again.summarize()
        assert list(again.stats) == list(stats)
        # The mean over the classes is the whole.
        by_class = list(values[f"{name}_ap_by_class"].values())
        assert sum(by_class) / 3 == near(values[f"{name}_ap"])
    assert 0.05 < values["box_ap"] < 0.95
    assert {each["category_id"] for each in results["bbox"]} == {2, 5, 90}
    assert figures.per_class_table().splitlines()[1].split()[0] == "a"
    assert f"box AP {values['box_ap']:.4f}, mask AP" in figures.describe("some/test")
    crowds = sum(each["iscrowd"] for each in data.truth()["annotations"])
    assert sum(values["num_objects"].values()) == len(data.truth()["annotations"]) - crowds > 0


def test_right_answers_score_1_and_none_0():
    data = Painted(6, has_masks=False)
    kept = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": each["bbox"],
            "score": 0.9,
        }
        for each in data.truth()["annotations"]
        if not each["iscrowd"]
    ]
    assert list(in_kinds(kept, has_masks=False)) == ["bbox"]

    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            none = torch.zeros(0)
            return [{"boxes": none.view(0, 4), "labels": none.long(), "scores": none}]

    class Right(Empty):
        def forward(self, images):
            target = data._target(data.sheet(round(float(images[0][0, 0, 0]) * 1000)))
            own = ~target["is_crowd"]
            scores = torch.ones(int(own.sum()))
            return [{"boxes": target["boxes"][own], "labels": target["labels"][own], "scores": scores}]

    assert evaluate_objects(Empty(), data)[0].to_dict()["box_ap"] == 0
    assert evaluate_objects(Right(), data)[0].to_dict()["box_ap"] == near(1.0)
    damaged = Empty()
    damaged.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="weights are not finite"):
        found_objects(damaged, torch.zeros(3, 4, 4))
    data.sheets = [Sheet(1, "a", 40, 60)]
    with pytest.raises(ValueError, match="no object is marked on the 1 images"):
        evaluate_objects(Empty(), data)
    data.sheets = []
    with pytest.raises(ValueError, match="empty data set"):
        evaluate_objects(Empty(), data)
    damaged.num_classes = 7
    data.sheets = [Sheet(1, "a", 40, 60)]
    with pytest.raises(ValueError, match="must know the 3 classes of this data set; it knows 7"):
        evaluate_objects(damaged, data)


def test_the_data_decides_the_task():
    assert isinstance(task_of(Recipe(data="detect-cue")), DetectionTask)
    assert DetectionTask(Recipe(data="detect-cue", task="detection")).recipe.model == "nl1_maskrcnn_tiny"
    assert trained_task({"task": "detection"}) == "detection"
    with pytest.raises(ValueError, match="detection learns from images with objects, data one of coco"):
        Recipe(data="voc", task="detection")
    with pytest.raises(ValueError, match="'maskrcnn_tiny' is for detection and gives boxes of objects"):
        ClassificationTask(Recipe(data="digits", model="maskrcnn_tiny"))


def test_what_is_left_open_fits_the_data(tmp_path):
    root = write_roboflow(tmp_path / "masks")
    found = DetectionTask(Recipe(data="coco", data_dir=root)).recipe
    assert (found.model, found.resize) == ("nl1_maskrcnn_tiny", 256)

    def boxes_alone(content):
        for each in content["annotations"]:
            del each["segmentation"]

    root = write_roboflow(tmp_path / "boxes", change=boxes_alone)
    task = DetectionTask(Recipe(data="coco", data_dir=root))
    assert task.recipe.model == "nl1_fasterrcnn_tiny"
    named = DetectionTask(Recipe(data="coco", data_dir=root, model="maskrcnn_tiny"))
    with pytest.raises(ValueError, match="has boxes only: choose fasterrcnn_tiny"):
        named.model(named.data("train"))
    assert fitted_recipe(found, 10_000).batch_size == 16
    assert fitted_recipe(found, 12).batch_size == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "nl_digits"}, "'nl_digits' is for classification"),
        ({"channels": 1}, "channels has no effect on images with objects"),
        ({"image_size": 32}, "image_size has no effect on images with objects"),
        ({"resize": 32}, "resize has no effect on 'detect-cue'"),
        ({"data_dir": "x"}, "data_dir has no effect on 'detect-cue'"),
        ({"window": 32}, "window has an effect only with images or volumes with masks"),
        ({"max_broken": 3}, "max_broken has an effect only with files"),
        ({"parallel": "fsdp"}, "was not tried with detectors"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit(settings, says):
    with pytest.raises(ValueError, match=says):
        DetectionTask(Recipe(**{"data": "detect-cue", **settings}))


def test_splits_must_have_the_same_classes(tmp_path):
    root = write_roboflow(tmp_path)
    path = root / "test/_annotations.coco.json"
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = "green"
    path.write_text(json.dumps(content))
    task = DetectionTask(recipe_of(root, tmp_path / "run"))
    task.data("train")
    with pytest.raises(ValueError, match="test has green, blue, and the first one red, blue"):
        task.data("test")
    content["annotations"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no object is marked on the 3 images of test"):
        DetectionTask(recipe_of(root, tmp_path / "run")).data("test")


def test_the_loss_is_the_sum_of_the_networks():
    class Losses(nn.Module):
        def forward(self, images, targets):
            assert [len(each["boxes"]) for each in targets] == [len(images), 0]
            return {"loss_mask": images[0].mean(), "loss_box_reg": images[1].mean()}

    batch = [
        [torch.full((3, 4, 5), 2.0), torch.ones(3, 6, 2)],
        [{"boxes": torch.zeros(2, 4)}, {"boxes": torch.zeros(0, 4)}],
    ]
    loss, logs = DetectionTask(Recipe(data="detect-cue")).loss(Losses(), moved(batch, "cpu"))
    assert_near(loss, torch.tensor(3.0))
    assert {name: float(value) for name, value in logs.items()} == {"loss_mask": 2.0, "loss_box_reg": 1.0}


def test_batches_are_of_one_format():
    groups = [index % 3 == 0 for index in range(100)]
    order = epoch_order(100, seed=1, epoch=2)
    found = grouped(order, [int(each) for each in groups], batch_size=8)
    assert sorted(found) == list(range(100))
    batches = [found[start : start + 8] for start in range(0, 96, 8)]
    mixed = [len({groups[index] for index in batch}) > 1 for batch in batches]
    # 34 and 66 are four and eight batches; the rest of each would be mixed, last.
    assert mixed == [False] * 12
    assert found == grouped(order, [int(each) for each in groups], batch_size=8)
    assert grouped(order, [1] * 100, batch_size=8) == order


class Stopping(DetectionTask):
    """Sends the process a signal during its third step."""

    calls = 0

    def loss(self, model, batch):
        Stopping.calls += 1
        if Stopping.calls == 3:
            signal.raise_signal(signal.SIGTERM)
        return super().loss(model, batch)


@pytest.mark.slow  # as of videos and of steps
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    root = write_roboflow(tmp_path / "data", train=4, others=1)
    changes = {"accumulate": 2, "schedule": "cosine", "norm_batches": 0}
    whole = train(recipe_of(root, tmp_path / "whole", **changes), progress=False)
    assert whole.metric == "box_ap"
    stopped = recipe_of(root, tmp_path / "parts", **changes)
    task = Stopping(stopped)
    assert train(task.recipe, task=task, progress=False).interrupted
    result = train(stopped, resume=True, progress=False)
    assert not result.interrupted
    assert_identical(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
    assert result.test == whole.test
    (row, *_) = final_state(tmp_path / "whole")["rows"]
    assert {"train_loss_mask", "train_loss_classifier", "train_loss_objectness"} <= row.keys()
    assert "validation_loss" not in row
    facts = read_metadata(tmp_path / "whole/best.safetensors")
    assert (facts["task"], facts["classes"], facts["class_ids"]) == ("detection", ["red", "blue"], [3, 90])
    assert set(result.test["mask_ap_by_class"]) == {"red", "blue"}


def test_norms_are_averaged_over_batches_of_lists(tmp_path):
    root = write_roboflow(tmp_path / "data", train=4, others=1)
    result = train(recipe_of(root, tmp_path / "run", epochs=1, norm_batches=2), progress=False)
    assert result.steps == 2


@pytest.mark.slow
def test_two_processes_share_a_batch(tmp_path):
    """The batch is shared; losses are of each rank's own regions, so that weights are near and not equal."""
    root = write_roboflow(tmp_path / "data", train=4, others=2)
    words = ["--data", "coco", "--data-dir", str(root), "--model", "nl1_maskrcnn_tiny", "--resize", "64"]
    words += ["--batch-size", "4", "--epochs", "1", "--device", "cpu", "--output", str(tmp_path / "two")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, "-m", "nonlocalnn", "train", *words],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=250,
    )
    metrics = json.loads((tmp_path / "two/metrics.json").read_text())
    assert (metrics["processes"], metrics["test"]["num_samples"]) == (2, 2)


@pytest.mark.slow
def test_it_learns(tmp_path):
    """Squares of two colours, from nothing, in some hundred steps."""
    root = write_roboflow(tmp_path / "data", train=16, others=6)
    recipe = recipe_of(root, tmp_path / "run", epochs=25, lr=2e-3, optimizer="adamw", batch_size=4)
    found = train(recipe, progress=False).test
    assert found["box_ap"] > 0.5
    assert found["mask_ap"] > 0.5
