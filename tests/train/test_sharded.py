"""Training in shards: what comes out is what one process computes."""

import gc
import json
import os
import signal

import pytest
import torch
from ranks import send, start
from safetensors.torch import load_file
from tiny_task import LENGTHS, TIMES, TinyTask, tiny_recipe
from torch.distributed.tensor import DTensor

from nonlocalnn.train import NonFiniteLossError, train
from nonlocalnn.train.order import epoch_order
from nonlocalnn.train.parallel.distributed import process_group
from nonlocalnn.train.state.sharded import read_tensors
from tolerances import NETWORK, assert_near, assert_same, near

SMOOTH = {"plain": True, "double": True}


def sharded(output, **changes):
    return tiny_recipe(output, parallel="fsdp", **changes)


def everything(output):
    """What a run must reproduce bit for bit: tensors, scaler and log."""
    manifest = json.loads((output / "last" / "manifest.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in manifest["position"]["rows"]]
    with process_group("cpu", sharded=True):
        tensors = read_tensors(output / "last", lambda name, shape, dtype: torch.empty(shape, dtype=dtype))
    return tensors, manifest["learner"], rows


def assert_same_bits(first, second):
    (tensors, *rest), (others, *other_rest) = everything(first), everything(second)
    assert_same(tensors, others)
    assert rest == other_rest
    for name in ("best", "last"):
        files = [load_file(output / f"{name}.safetensors") for output in (first, second)]
        assert_same(*files)


def assert_same_to_rounding(first, second):
    for name in ("best", "last"):
        files = [load_file(output / f"{name}.safetensors") for output in (first, second)]
        assert_near(*files, sums=NETWORK)
    rows = [
        [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in log.splitlines()]
        for log in ((output / "log.jsonl").read_text() for output in (first, second))
    ]
    for row, other in zip(*rows, strict=True):
        assert row == near(other)


OPTIMISERS = {
    "sgd, clipped": {"optimizer": "sgd", "lr": 0.1, "clip_norm": 0.5},
    "adamw, no decay of norms": {"optimizer": "adamw", "weight_decay": 0.1, "decay_norms": False},
}


@pytest.fixture(scope="module", params=OPTIMISERS.values(), ids=OPTIMISERS)
def one_process(request, tmp_path_factory):
    """A run of one process that is not sharded, with the changes of its recipe."""
    changes = {"batch_size": 8, **request.param}
    output = tmp_path_factory.mktemp("one")
    train(tiny_recipe(output, **changes), task=TinyTask(**SMOOTH))
    return output, changes


@pytest.mark.parametrize(
    ("num_ranks", "accumulate"),
    [(1, 1), (1, 4), (2, 1), (2, 2), *(pytest.param(4, each, marks=pytest.mark.slow) for each in (1, 2))],
)
def test_any_number_of_shards_equals_one_process(ranks, one_process, tmp_path, num_ranks, accumulate):
    whole, changes = one_process
    answers = ranks(sharded(tmp_path, accumulate=accumulate, **changes), *[SMOOTH] * num_ranks)
    assert answers == [{"signal": None, "steps": 9}] * num_ranks
    assert_same_to_rounding(tmp_path, whole)
    first, second = (json.loads((output / "metrics.json").read_text()) for output in (tmp_path, whole))
    assert (first["test"]["confusion"], first["parameters"]) == (
        second["test"]["confusion"],
        second["parameters"],
    )


@pytest.mark.slow
def test_two_ranks_stop_together_and_resume_bit_for_bit(ranks, tmp_path):
    changes = {"accumulate": 2, "norm_batches": 1, "checkpoint_every": 1}
    whole, parts = sharded(tmp_path / "whole", **changes), sharded(tmp_path / "parts", **changes)
    assert ranks(whole, {}, {}) == [{"signal": None, "steps": 18}] * 2
    # Only rank 1 gets the signal, in its second part of step 8.
    assert ranks(parts, {}, {"stop_at": 16}) == [{"signal": signal.SIGTERM, "steps": 8}] * 2
    weights = {f"model.{k}": v for k, v in load_file(parts.output / "last.safetensors").items()}
    tensors = everything(parts.output)[0]
    assert_same(weights, {name: tensors[name] for name in weights})
    assert ranks(parts, {}, {}, resume=True) == [{"signal": None, "steps": 18}] * 2
    assert_same_bits(parts.output, whole.output)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_saved_on_two_ranks_and_resumed_on_others(ranks, one_process, tmp_path, num_ranks):
    whole, changes = one_process
    recipe = sharded(tmp_path, **changes)
    ranks(recipe, {**SMOOTH, "stop_at": 4}, SMOOTH)
    answer, *others = ranks(recipe, *[SMOOTH] * num_ranks, resume=True)
    assert answer.pop("warnings") == [
        f"the run was on 2 processes and goes on with {num_ranks}: the batches stay the same, the bits do not"
    ]
    assert [answer, *others] == [{"signal": None, "steps": 9}] * num_ranks
    assert_same_to_rounding(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_like_the_replicated_network_and_resumes(ranks, tmp_path, precision):
    changes = {"epochs": 1, "precision": precision, "clip_norm": 1.0, "schedule": "constant"}
    names = ("replicated", "sharded", "parts")
    folders = [tmp_path / name for name in names]
    ranks(tiny_recipe(folders[0], **changes), {}, {})
    ranks(sharded(folders[1], **changes), {}, {})
    ranks(sharded(folders[2], **changes), {"stop_at": 3}, {})
    ranks(sharded(folders[2], **changes), {}, {}, resume=True)
    assert_same_bits(folders[2], folders[1])
    losses = [json.loads((folder / "log.jsonl").read_text())["train_loss"] for folder in folders[:2]]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    scaler = everything(folders[1])[1]["scaler"]
    assert bool(scaler) is (precision == "fp16")


def test_non_finite_loss_on_one_rank_stops_both(ranks, tmp_path):
    bad = epoch_order(LENGTHS["train"], seed=7, epoch=0)[10]
    recipe = sharded(tmp_path, checkpoint_every=1)
    first, second = ranks(recipe, *[{"poison": (bad,)}] * 2)
    assert first == second
    assert f"train/{bad}" in first["sample_ids"]
    assert json.loads((tmp_path / "last" / "manifest.json").read_text())["position"]["step"] == 2


def test_non_finite_gradient_stops_too(tmp_path):
    class SteepTask(TinyTask):
        def loss(self, model, batch):
            scores = model(batch[0])
            return scores.sum() + (0 * scores).sqrt().sum(), {}

    with pytest.raises(NonFiniteLossError, match="gradient is not finite at epoch 1, step 1"):
        train(sharded(tmp_path), task=SteepTask())
    assert not (tmp_path / "last").exists()


def test_both_kinds_of_parameters_lie_in_shards(tmp_path):
    seen = []

    class Looking(TinyTask):
        def loss(self, model, batch):
            seen.append([type(each).__name__ for each in model.parameters()])
            return super().loss(model, batch)

    train(sharded(tmp_path, iterations=1, precision="bf16"), task=Looking())
    assert seen == [["DTensor"] * 6]


@pytest.mark.slow
def test_killed_at_any_moment_goes_on_bit_for_bit(tmp_path):
    whole, parts = sharded(tmp_path / "whole"), sharded(tmp_path / "parts", checkpoint_every=1)
    train(whole, task=TinyTask())
    process = start()
    send(process, parts, delay=0.01)
    for _ in range(9):
        assert process.stdout.readline().startswith("step")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert train(parts, task=TinyTask(), resume=True).steps == 18
    assert_same_bits(parts.output, whole.output)


@pytest.mark.parametrize(("before", "now"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_refuses_to_go_on_in_the_other_way(tmp_path, before, now):
    train(tiny_recipe(tmp_path, parallel=before), task=TinyTask(stop_at=1))
    with pytest.raises(ValueError, match=f"parallel was '{before}' and is now '{now}'"):
        train(tiny_recipe(tmp_path, parallel=now), task=TinyTask(), resume=True)


@pytest.mark.slow
def test_finished_run_is_only_reported(tmp_path):
    recipe = sharded(tmp_path, epochs=1)
    result = train(recipe, task=TinyTask())
    task = TinyTask()
    assert train(recipe, task=task, resume=True) == result
    assert task.splits == []
    with pytest.raises(ValueError, match="already holds a run"):
        train(recipe, task=TinyTask())


@pytest.mark.slow
def test_no_group_of_processes_is_left_to_be_freed_in_a_fork(tmp_path):
    for number in range(2):
        train(sharded(tmp_path / str(number), iterations=2, checkpoint_every=1), task=TinyTask())
    kinds = (torch.distributed.ProcessGroup, DTensor)
    # By type: some objects warn when isinstance looks at them.
    assert [type(each) for each in gc.get_objects() if issubclass(type(each), kinds)] == []
