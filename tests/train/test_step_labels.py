"""The task that labels each step of a sequence: loss over real steps, figures, and what it refuses."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nonlocalnn.data.sequences.steps import load_steps
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.tasks.mask_figures import StepFigures
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.tasks.step_labels import StepLabelsTask, evaluate_steps
from nonlocalnn.train import train
from step_files import write_csv, write_npz
from tolerances import assert_near, assert_same, near


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("steps")
    write_npz(root / "a_TRAIN.npz", range(24))
    write_npz(root / "a_TEST.npz", range(24, 30))
    return root


def recipe(folder, **settings):
    return Recipe(data="sequence-labels", data_dir=folder, **settings)


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    for split in ("train", "validation", "test"):
        lines = write_csv(tmp_path / split / "a.csv", [1], header="a,b").read_text().split()
        rows = ["a,b,label", *(f"{line},walk" for line in lines[1:])]
        (tmp_path / split / "a.csv").write_text("\n".join(rows))
    task = StepLabelsTask(recipe(tmp_path))
    with pytest.raises(ValueError, match="needs at least two classes; 'sequence-labels' has one, 'walk'"):
        task.model(task.data("train"))


def test_the_data_decides_the_task(folder):
    task = task_of(recipe(folder))
    assert isinstance(task, StepLabelsTask)
    assert task.recipe.model == "nl_unet1d_tiny"
    assert task_of(recipe(folder, task="segmentation", model="unet1d")).recipe.model == "unet1d"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "nl2_resnet1d_tiny"}, "gives one answer a sample; segmentation needs"),
        ({"model": "nl_fcn_tiny"}, "labels images, and this data is of sequences"),
        ({"image_size": 9}, "image_size has no effect on sequences"),
        ({"resize": 9}, "resize has no effect on sequences"),
        ({"window": 9}, "window has no effect on sequences"),
        ({"channels": 3}, "channels has no effect on sequences"),
        ({"spacing": (1, 1, 1)}, "spacing has an effect only with volumes"),
        ({"task": "classification"}, "task must be 'segmentation' with data='sequence-labels'"),
    ],
)
def test_settings_that_do_not_fit(folder, settings, says):
    with pytest.raises(ValueError, match=says):
        task_of(recipe(folder, **settings))


def test_networks_of_steps_refuse_other_data():
    with pytest.raises(ValueError, match="labels sequences, and this data is of images"):
        task_of(Recipe(data="segment-cue", model="nl_unet1d_tiny"))


def test_all_splits_are_normalised_as_the_training(folder):
    task = task_of(recipe(folder))
    test, training = task.data("test"), task.data("train")
    assert (test.mean, test.standard_deviation) == training.statistics()
    facts = task.metadata(training)
    assert (facts["task"], facts["mean"], facts["channels"]) == ("segmentation", training.mean, 2)
    assert facts["classes"] == ["0", "1", "2"]


def test_weights_are_one_a_class(folder):
    task = task_of(recipe(folder, class_weights=(1, 2)))
    with pytest.raises(ValueError, match="one number for each of the 3 classes"):
        task.model(task.data("train"))


def test_the_loss_is_of_real_steps_with_a_class(folder):
    task = task_of(recipe(folder))
    data = task.data("train")
    torch.manual_seed(0)
    model = task.model(data).eval()
    items = [data[0], data[5], data[9]]
    with torch.no_grad():
        loss, means = task.loss(model, data.collate(items))
    total, right, number = 0.0, 0, 0
    for sequence, ids in items:
        scores = model(sequence[None])[0].detach()
        known = ids != 255
        total += float(F.cross_entropy(scores.T[known], ids[known].long(), reduction="sum"))
        right += int((scores.argmax(0)[known] == ids[known]).sum())
        number += int(known.sum())
    assert_near(loss, torch.tensor(total / number))
    assert_near(means["step_accuracy"], torch.tensor(right / number))


class _Levels(nn.Module):
    """Says 0, 1 or 2 by a step's own value and by its neighbour's."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        line = x.mean(1)
        step = (line - F.pad(line, (1, 0), mode="replicate")[:, :-1]).abs()
        return torch.stack([line, -line, 2 * step], 1)


def test_figures_are_of_all_steps(folder):
    data = task_of(recipe(folder)).data("test")
    found = evaluate_steps(_Levels(), data)
    confusion, loss = torch.zeros(3, 3, dtype=torch.int64), []
    for index in range(len(data)):
        sequence, ids = data[index]
        scores = _Levels()(sequence[None])[0]
        for each, guess, wanted in zip(scores.T, scores.argmax(0).tolist(), ids.tolist(), strict=True):
            if wanted != 255:
                confusion[wanted, guess] += 1
                loss.append(float(F.cross_entropy(each, torch.tensor(wanted))))
    assert_same(found.confusion, confusion)
    assert found.loss == near(math.fsum(loss) / len(loss))
    assert found.num_samples == 6
    first = confusion.double()
    f1 = [float(2 * first[k, k] / (first[k].sum() + first[:, k].sum())) for k in range(3)]
    assert found.f1 == near(f1)
    assert found.to_dict()["mean_f1"] == near(sum(f1) / 3)


def test_a_class_that_is_nowhere_has_no_figure():
    confusion = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    found = StepFigures(loss=0.0, classes=("a", "b", "c"), num_samples=1, confusion=confusion)
    assert found.to_dict()["f1"]["c"] is None
    assert found.mean_f1 == near((6 / 7 + 4 / 5) / 2)
    assert found.balanced_accuracy == near((3 / 4 + 1) / 2)
    assert found.per_class_table().splitlines()[3].split() == ["c", "0.00%", "-", "-"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: x[:, :2], r"scores must be \(6, 3, \d+\), one a class"),
        (lambda x: x.mean(2), "scores must be"),
        (lambda x: torch.full((len(x), 3, x.shape[2]), torch.nan), "not finite"),
    ],
)
def test_scores_that_do_not_fit(folder, answer, says):
    class Wrong(_Levels):
        def forward(self, x):
            return answer(x)

    with pytest.raises(ValueError, match=says):
        evaluate_steps(Wrong(), load_steps(folder, "test"))


def test_a_run_that_was_stopped_goes_on_bit_for_bit(folder, tmp_path):
    settings = {"epochs": 2, "batch_size": 8, "device": "cpu", "model_overrides": {"width": 4, "depth": 2}}
    train(recipe(folder, output=tmp_path / "whole", **settings), progress=False)
    parts = {**settings, "output": tmp_path / "parts"}
    train(recipe(folder, **{**parts, "epochs": 1}), progress=False)
    train(recipe(folder, **parts), resume=True, progress=False)
    one, two = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "parts"))
    assert len(one) == len(two)
    from safetensors.torch import load

    for name, weights in load(one).items():
        assert_same(weights, load(two)[name])
