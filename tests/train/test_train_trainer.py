import json
import math
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_task import (
    LENGTHS,
    Points,
    TinyTask,
    assert_identical,
    final_state,
    saved_position,
    saved_tensors,
    tiny_recipe,
)
from torch.nn import functional as F

from nonlocalnn.train import NonFiniteLossError, train
from nonlocalnn.train.learner import Learner
from nonlocalnn.train.order import epoch_order, mix
from nonlocalnn.train.parallel.distributed import process_group
from nonlocalnn.train.trainer import _check_device
from tolerances import NETWORK, assert_near, assert_same, near


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    output = tmp_path_factory.mktemp("whole")
    task = TinyTask()
    result = train(tiny_recipe(output), task=task)
    return output, task, result


class ScriptedTask(TinyTask):
    """Finds on the validation data what it is told."""

    script: list[tuple[float, float]]

    def evaluate(self, model, data, *, device, distributed):
        found = super().evaluate(model, data, device=device, distributed=distributed)
        if data.split == "validation":
            (found["accuracy"], found["loss"]), *self.script = self.script
        return found


def scripted(*scores, losses=(1.0, 1.0, 1.0)):
    task = ScriptedTask()
    task.script = list(zip(scores, losses, strict=False))
    return task


def test_leaves_its_files_and_result(whole):
    output, _, result = whole
    assert {path.name for path in output.iterdir()} == {
        *("recipe.json", "log.jsonl", "log.csv", "metrics.json"),
        *("last", "last.previous", "last.safetensors", "best.safetensors"),
    }
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 6), (2, 12), (3, 18)]
    assert list(rows[0]) == [
        *("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss"),
        *("validation_accuracy", "seconds", "samples_per_second"),
        *("slowest_rank", "slowest_seconds", "fastest_seconds"),
    ]
    metrics = json.loads((output / "metrics.json").read_text())
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert (result.best_epoch, result.best_metric) == (best["epoch"], best["validation_accuracy"])
    assert metrics["test"] == result.test
    assert result.test["num_samples"] == LENGTHS["test"]
    assert (result.steps, metrics["steps"], result.interrupted) == (18, 18, False)
    assert json.loads((output / "recipe.json").read_text()) == tiny_recipe(output).to_dict()


def test_test_data_is_there_from_the_start_and_read_once_at_the_end(whole, tmp_path):
    _, task, _ = whole
    assert [points.split for points in task.splits] == ["train", "validation", "test"]
    assert task.splits[-1].reads == LENGTHS["test"]
    # Stopped in the last step, everything is trained and nothing is tested.
    stopped = TinyTask(stop_at=18)
    assert train(tiny_recipe(tmp_path), task=stopped).interrupted
    assert [(points.split, points.reads > 0) for points in stopped.splits] == [
        ("train", True),
        ("validation", True),
        ("test", False),
    ]


def test_loss_falls(whole):
    rows = final_state(whole[0])["rows"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(tiny_recipe(tmp_path, epochs=1), task=TinyTask())
    assert torch.equal(torch.get_rng_state(), before)


def test_finished_run_is_only_reported(whole):
    output, _, result = whole
    task = TinyTask()
    assert train(tiny_recipe(output), task=task, resume=True) == result
    assert task.splits == []


@pytest.mark.parametrize(
    ("stop_at", "num_workers"),
    [
        *((stop_at, 0) for stop_at in (3, 6, 10)),
        (3, 2),
        *(pytest.param(stop_at, 2, marks=pytest.mark.slow) for stop_at in (6, 10)),
    ],
)
def test_resumes_bit_for_bit(whole, tmp_path, stop_at, num_workers):
    recipe = tiny_recipe(tmp_path, num_workers=num_workers)
    stopped = train(recipe, task=TinyTask(stop_at=stop_at, stop_with=signal.SIGINT))
    assert (stopped.signal_number, stopped.steps, stopped.test) == (signal.SIGINT, stop_at, None)
    result = train(recipe, task=TinyTask(), resume=True)
    assert_identical(final_state(tmp_path), final_state(whole[0]))
    assert result.test == whole[2].test
    for name in ("best.safetensors", "last.safetensors"):
        assert_same(load_file(tmp_path / name), load_file(whole[0] / name))
    logged = [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == [1, 2, 3]


class CrashingTask(TinyTask):
    def loss(self, model, batch):
        if self.calls == 9:
            raise OSError("the machine went away")
        return super().loss(model, batch)


def test_resumes_bit_for_bit_from_a_save_inside_an_epoch(whole, tmp_path):
    recipe = tiny_recipe(tmp_path, checkpoint_every=4)
    with pytest.raises(OSError, match="went away"):
        train(recipe, task=CrashingTask())
    position = saved_position(tmp_path)
    assert (position["epoch"], position["step"]) == (1, 2)
    train(recipe, task=TinyTask(), resume=True)
    assert_identical(final_state(tmp_path), final_state(whole[0]))


def test_more_epochs_continue_a_finished_run(tmp_path):
    for folder in ("long", "short"):
        train(
            tiny_recipe(tmp_path / folder, schedule="constant", epochs=3 if folder == "long" else 1),
            task=TinyTask(),
        )
    longer = tiny_recipe(tmp_path / "short", schedule="constant", epochs=3)
    train(longer, task=TinyTask(), resume=True)
    assert_identical(final_state(tmp_path / "short"), final_state(tmp_path / "long"))


@pytest.mark.parametrize(
    ("scores", "losses"),
    [
        ((0.5, 0.7, 0.7), (1.0, 1.0, 1.0)),
        ((0.7, 0.7, 0.7), (0.26, 0.007, 0.1)),
        ((0.7, 0.7, 0.7), (math.nan, 0.2, 0.2)),
        ((0.6, 0.7, 0.1), (0.1, 0.9, 0.0)),
        ((math.nan, 0.7, 0.2), (1.0, 1.0, 1.0)),
    ],
    ids=["tie", "tie of scores", "NaN loss", "score before loss", "NaN"],
)
def test_best_is_the_first_of_the_highest(tmp_path, scores, losses):
    recipe = tiny_recipe(tmp_path / "three", schedule="constant")
    result = train(recipe, task=scripted(*scores, losses=losses))
    assert (result.best_epoch, result.best_metric) == (2, 0.7)
    train(tiny_recipe(tmp_path / "two", schedule="constant", epochs=2), task=scripted(0.1, 0.2))
    best, second = tmp_path / "three" / "best.safetensors", tmp_path / "two" / "last.safetensors"
    assert_same(load_file(best), load_file(second))


def test_resume_restores_files_that_a_crash_left_behind(tmp_path):
    recipe = tiny_recipe(tmp_path, schedule="constant", epochs=1)
    train(recipe, task=scripted(0.9))
    best = load_file(tmp_path / "best.safetensors")
    for name in ("best.safetensors", "log.jsonl", "metrics.json"):
        (tmp_path / name).unlink()
    result = train(recipe, task=scripted(), resume=True)
    assert result.best_metric == 0.9
    assert_same(load_file(tmp_path / "best.safetensors"), best)
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


def weights(output):
    return load_file(output / "last.safetensors")


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_accumulation_equals_the_large_batch(tmp_path, clip_norm):
    changes = {"optimizer": "sgd", "lr": 0.1, "batch_size": 12, "clip_norm": clip_norm}
    for accumulate in (1, 3):
        recipe = tiny_recipe(tmp_path / str(accumulate), accumulate=accumulate, **changes)
        train(recipe, task=TinyTask(plain=True))
    assert_near(weights(tmp_path / "1"), weights(tmp_path / "3"))
    first, second = (final_state(tmp_path / name)["rows"][-1]["train_loss"] for name in ("1", "3"))
    assert first == near(second)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_resumes(tmp_path, precision):
    changes = {"epochs": 1, "precision": precision, "clip_norm": 1.0}
    train(tiny_recipe(tmp_path / "whole", **changes), task=TinyTask())
    parts = tiny_recipe(tmp_path / "parts", **changes)
    train(parts, task=TinyTask(stop_at=3))
    train(parts, task=TinyTask(), resume=True)
    state = final_state(tmp_path / "parts")
    assert_identical(state, final_state(tmp_path / "whole"))
    assert math.isfinite(state["rows"][0]["train_loss"])
    assert bool(state["scaler"]) is (precision == "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_bounds_the_step(tmp_path, precision):
    changes = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "schedule": "constant"}
    recipe = tiny_recipe(tmp_path, clip_norm=0.01, precision=precision, **changes)
    train(recipe, task=TinyTask(plain=True, stop_at=1))
    before = weights(tmp_path)
    train(recipe, task=TinyTask(plain=True, stop_at=1), resume=True)
    after = weights(tmp_path)
    step = torch.cat([(after[name] - before[name]).flatten() for name in after])
    assert float(step.norm()) == near(0.01, sums=NETWORK)


def test_non_finite_loss_names_the_samples_and_keeps_the_last_good_state(tmp_path):
    # In the fourth batch of the first epoch.
    bad = epoch_order(LENGTHS["train"], seed=7, epoch=0)[13]
    with pytest.raises(NonFiniteLossError, match="loss is not finite at epoch 1, step 4") as caught:
        train(tiny_recipe(tmp_path, checkpoint_every=1), task=TinyTask(poison=(bad,)))
    assert f"train/{bad}" in caught.value.sample_ids
    assert f"train/{bad}" in str(caught.value)
    assert len(caught.value.sample_ids) == 4
    assert saved_position(tmp_path)["step"] == 3
    assert all(value.isfinite().all() for value in saved_tensors(tmp_path).values())


class SteepTask(TinyTask):
    """A finite loss with a gradient that is not."""

    def loss(self, model, batch):
        scores = model(batch[0])
        return F.cross_entropy(scores, batch[1]) + (0 * scores).sqrt().sum(), {}


def test_non_finite_gradient_stops_too(tmp_path):
    with pytest.raises(NonFiniteLossError, match="gradient is not finite at epoch 1, step 1"):
        train(tiny_recipe(tmp_path), task=SteepTask())
    assert not (tmp_path / "last").exists()


def test_refuses_a_folder_with_a_run(whole):
    with pytest.raises(ValueError, match="already holds a run: use --resume to go on, or another --output"):
        train(tiny_recipe(whole[0]), task=TinyTask())


def test_refuses_to_resume_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(tiny_recipe(tmp_path), task=TinyTask(), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5, "seed": 1}, r"lr was 0.01 and is now 0.5, seed was 7 and is now 1"),
        ({"epochs": 4}, "epochs was 3 and is now 4"),
    ],
)
def test_refuses_to_resume_with_another_recipe(whole, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_recipe(whole[0], **changes), task=TinyTask(), resume=True)


def test_refuses_fewer_epochs_than_begun(tmp_path):
    train(tiny_recipe(tmp_path, schedule="constant"), task=TinyTask(stop_at=8))
    with pytest.raises(ValueError, match="epochs must be at least 2, to which the run has come; got 1"):
        train(tiny_recipe(tmp_path, schedule="constant", epochs=1), task=TinyTask(), resume=True)


def test_refuses_other_data(tmp_path, monkeypatch):
    train(tiny_recipe(tmp_path), task=TinyTask(stop_at=2))
    monkeypatch.setitem(LENGTHS, "train", 30)
    with pytest.raises(ValueError, match="began with 27 training samples and the data now has 30"):
        train(tiny_recipe(tmp_path), task=TinyTask(), resume=True)


class Renamed(Points):
    names = ("a", "c", "d")

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.classes = self.names


def test_refuses_other_classes(tmp_path, monkeypatch):
    train(tiny_recipe(tmp_path), task=TinyTask(stop_at=2))
    monkeypatch.setattr("tiny_task.Points", Renamed)
    with pytest.raises(ValueError, match=r"3 classes.* differ, number 1, are 'b' and 'c': resume with"):
        train(tiny_recipe(tmp_path), task=TinyTask(), resume=True)


def test_takes_classes_whose_accents_are_stored_otherwise(tmp_path, monkeypatch):
    """As macOS and archives from there do: the folder of a run's data may be moved to another machine."""
    monkeypatch.setattr("tiny_task.Points", Renamed)
    monkeypatch.setattr(Renamed, "names", ("a", "K\u00e4se", "z"))
    train(tiny_recipe(tmp_path), task=TinyTask(stop_at=2))
    monkeypatch.setattr(Renamed, "names", ("a", "Ka\u0308se", "z"))
    train(tiny_recipe(tmp_path), task=TinyTask(), resume=True)


def test_refuses_a_batch_larger_than_the_data(tmp_path):
    with pytest.raises(ValueError, match="has 27 samples, fewer than one batch of 28"):
        train(tiny_recipe(tmp_path, batch_size=28), task=TinyTask())


def test_iterations_end_in_mid_epoch(tmp_path):
    result = train(tiny_recipe(tmp_path, iterations=8), task=TinyTask())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 6), (2, 8)]
    assert (result.steps, result.test["num_samples"]) == (8, LENGTHS["test"])
    assert train(tiny_recipe(tmp_path, iterations=8), task=TinyTask(), resume=True).steps == 8
    with pytest.raises(ValueError, match="cannot be resumed with another recipe: iterations was 8"):
        train(tiny_recipe(tmp_path, iterations=7), task=TinyTask(), resume=True)


@pytest.mark.parametrize("stop_at", [3, 7, 8])
def test_iterations_resume_bit_for_bit(tmp_path, stop_at):
    changes = {"iterations": 8, "norm_batches": 2, "schedule": "step", "milestones": (5,)}
    train(tiny_recipe(tmp_path / "whole", **changes), task=TinyTask())
    cut = tiny_recipe(tmp_path / "cut", **changes)
    assert train(cut, task=TinyTask(stop_at=stop_at)).interrupted
    assert train(cut, task=TinyTask(), resume=True).steps == 8
    assert_identical(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))


def test_refuses_fewer_iterations_than_done(tmp_path):
    changes = {"schedule": "constant"}
    train(tiny_recipe(tmp_path, iterations=8, **changes), task=TinyTask())
    with pytest.raises(ValueError, match="iterations must be at least 8, to which the run has come; got 7"):
        train(tiny_recipe(tmp_path, iterations=7, **changes), task=TinyTask(), resume=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_norms_are_averaged_over_whole_batches_of_the_epoch_that_comes(tmp_path, accumulate):
    task = TinyTask()
    recipe = tiny_recipe(tmp_path, epochs=1, norm_batches=3, lr=1e-12, accumulate=accumulate)
    train(recipe, task=task)
    state = load_file(tmp_path / "last.safetensors")
    order = epoch_order(LENGTHS["train"], seed=7, epoch=1)[: 3 * 4]
    means, variances = [], []
    size = 4 // accumulate
    for start in range(0, len(order), size):
        images = []
        for index in order[start : start + size]:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(mix(7, "sample", 1, index))
                images.append(task.splits[0][index][0])
        maps = F.conv2d(torch.stack(images), state["conv.weight"], state["conv.bias"]).transpose(0, 1)
        means.append(maps.flatten(1).mean(1))
        variances.append(maps.flatten(1).var(1))
    assert_near(state["bn.running_mean"], torch.stack(means).mean(0))
    assert_near(state["bn.running_var"], torch.stack(variances).mean(0))


def test_the_last_weights_are_kept_and_tested(tmp_path):
    result = train(tiny_recipe(tmp_path, keep="last"), task=scripted(0.9, 0.5, 0.4))
    assert (result.best_epoch, result.best_metric) == (3, 0.4)
    best, last = (load_file(tmp_path / f"{name}.safetensors") for name in ("best", "last"))
    assert_same(best, last)


def test_a_scaled_rate_is_said_aloud(tmp_path, capsys):
    train(tiny_recipe(tmp_path, epochs=1, lr_batch_size=16), task=TinyTask(), progress=None)
    assert (
        "learning rate 0.0025: 0.01 is meant for batches of 16, and these are of 4" in capsys.readouterr().err
    )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[0]["lr"] < 0.0025


def test_an_epoch_leaves_a_line(tmp_path, capsys):
    train(tiny_recipe(tmp_path, epochs=2), task=TinyTask(), progress=None)
    first, second = capsys.readouterr().err.splitlines()[-2:]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for said, row, number in ((first, rows[0], 1), (second, rows[1], 2)):
        assert said.startswith(f"epoch {number}/2  train loss {row['train_loss']:.4f}  validation ")


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("is_distributed", [False, True])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_norms_over_ranks_need_a_gpu_for_each(tmp_path, asked, is_distributed, kind):
    group = SimpleNamespace(is_distributed=is_distributed, device=torch.device(kind))
    recipe = tiny_recipe(tmp_path, sync_norms=asked)
    wrong = asked and is_distributed and kind == "cpu"
    with pytest.raises(ValueError, match="sync_norms needs a GPU for each") if wrong else nullcontext():
        _check_device(recipe, group)


class CountingTask(TinyTask):
    """Logs a one for every step."""

    def loss(self, model, batch):
        value, logs = super().loss(model, batch)
        return value, {**logs, "one": torch.ones(())}


def test_a_short_epoch_logs_means_over_its_steps(tmp_path):
    train(tiny_recipe(tmp_path, iterations=8), task=CountingTask())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["train_one"] for row in rows] == [1.0, 1.0]


def test_statistics_of_norms_depend_on_the_seed_alone(tmp_path):
    class Dropping(TinyTask):
        def model(self, data):
            return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(1))

        def loss(self, model, batch):
            return model(batch[0]).sum(), {}

    recipe, samples = tiny_recipe(tmp_path), TinyTask().data("train")
    found = []
    for number in (1, 2):
        task = Dropping()
        with process_group("cpu") as group:
            learner = Learner(task.model(samples), task=task, recipe=recipe, group=group, samples=samples)
            torch.manual_seed(number)
            learner.average_norms([([torch.ones(4, 1, 5, 7)], torch.arange(4))], seed=9)
        found.append(learner.model[1].running_mean)
    assert_same(*found)
    assert 0 < found[0] != 1
