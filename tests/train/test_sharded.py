"""Training in shards: what comes out is what one process computes."""

import gc
import json
import os
import signal

import pytest
import torch
from ranks import send, start
from safetensors.torch import load_file
from tiny_task import (
    LENGTHS,
    TIMES,
    TinyTask,
    assert_identical,
    final_state,
    saved_position,
    saved_tensors,
    tiny_recipe,
)
from torch.distributed.tensor import DTensor

from nonlocalnn.train import NonFiniteLossError, train
from nonlocalnn.train.learner import Learner
from nonlocalnn.train.order import epoch_order
from nonlocalnn.train.parallel.distributed import process_group
from nonlocalnn.train.parallel.layout import full
from nonlocalnn.train.state.resuming import read_state
from tolerances import NETWORK, assert_near, assert_same, near

SMOOTH = {"plain": True, "double": True}


def sharded(output, **changes):
    return tiny_recipe(output, parallel="fsdp", **changes)


def assert_same_bits(first, second):
    assert_identical(final_state(first), final_state(second))
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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(changes, id=name, marks=[pytest.mark.slow] if name.startswith("sgd") else [])
        for name, changes in OPTIMISERS.items()
    ],
)
def one_process(request, tmp_path_factory):
    """A run of one process that is not sharded, with the changes of its recipe."""
    changes = {"batch_size": 8, **request.param}
    output = tmp_path_factory.mktemp("one")
    train(tiny_recipe(output, **changes), task=TinyTask(**SMOOTH))
    return output, changes


@pytest.mark.parametrize(
    ("num_ranks", "accumulate"),
    [
        (2, 2),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 4), (1, 1), (2, 1), (4, 1), (4, 2))),
    ],
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
    # Only rank 1 gets the signal, in its second part of step 8: two calls after an epoch are for its norms.
    assert ranks(parts, {}, {"stop_at": 18}) == [{"signal": signal.SIGTERM, "steps": 8}] * 2
    weights = {f"model.{k}": v for k, v in load_file(parts.output / "last.safetensors").items()}
    tensors = saved_tensors(parts.output)
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
        f"the run was on 2 processes (fsdp) and goes on with {num_ranks} (fsdp): the batches stay the same, "
        "the bits do not"
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
    scaler = final_state(folders[1])["scaler"]
    assert bool(scaler) is (precision == "fp16")


def test_non_finite_loss_on_one_rank_stops_both(ranks, tmp_path):
    bad = epoch_order(LENGTHS["train"], seed=7, epoch=0)[10]
    recipe = sharded(tmp_path, checkpoint_every=1)
    first, second = ranks(recipe, *[{"poison": (bad,)}] * 2)
    assert first == second
    assert f"train/{bad}" in first["sample_ids"]
    assert saved_position(tmp_path)["step"] == 2


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


WAYS = {
    "ddp, fsdp, one, ddp": (("ddp", 2), ("fsdp", 2), ("ddp", 1), ("ddp", 2)),
    "fsdp, ddp": (("fsdp", 2), ("ddp", 2)),
}


@pytest.mark.parametrize(
    "ways",
    [WAYS["ddp, fsdp, one, ddp"], pytest.param(WAYS["fsdp, ddp"], marks=pytest.mark.slow)],
    ids=WAYS,
)
def test_goes_on_in_the_other_way(ranks, one_process, tmp_path, ways):
    whole, changes = one_process
    for number, (parallel, num_ranks) in enumerate(ways):
        recipe = tiny_recipe(tmp_path, parallel=parallel, checkpoint_every=1, **changes)
        stop = {"stop_at": 2} if number < len(ways) - 1 else {}
        answers = ranks(recipe, {**SMOOTH, **stop}, *[SMOOTH] * (num_ranks - 1), resume=number > 0)
        if number:
            before, before_ranks = ways[number - 1]
            assert (
                answers[0]
                .pop("warnings")[0]
                .startswith(
                    f"the run was on {before_ranks} processes ({before}) and goes on with {num_ranks} "
                    f"({parallel})"
                )
            )
        steps = 2 * (number + 1) if stop else 9
        assert answers == [{"signal": 15 if stop else None, "steps": steps}] * num_ranks
    assert_same_to_rounding(tmp_path, whole)
    assert_near(saved_tensors(tmp_path), saved_tensors(whole), sums=NETWORK)


@pytest.mark.slow
def test_two_whole_ranks_write_what_either_way_of_reading_takes_bit_for_bit(ranks, tmp_path):
    """A state that is read in the other way, and saved again, is the same state."""
    ranks(tiny_recipe(tmp_path), {"stop_at": 4}, {})
    before = saved_tensors(tmp_path)
    for parallel in ("fsdp", "ddp"):
        with process_group("cpu", sharded=parallel == "fsdp") as group:
            recipe, task = tiny_recipe(tmp_path, parallel=parallel), TinyTask()
            data = task.data("train")
            one = Learner(task.model(data), task=task, recipe=recipe, group=group, samples=data)
            one.load(read_state(tmp_path, group))
            found = {name: full(value) for name, value in one.tensors().items()}
        assert_same(found, before)


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
