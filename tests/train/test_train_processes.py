import dataclasses
import json
import os
import signal

import pytest
import torch
from ranks import send, start
from safetensors.torch import load_file
from tiny_task import LENGTHS, TinyTask, assert_identical, final_state, saved_position, tiny_recipe

from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.train import train
from nonlocalnn.train.order import epoch_order
from nonlocalnn.train.parallel.distributed import process_group
from tolerances import assert_near, near


@pytest.fixture
def pair(ranks):
    """Two ranks; call with a recipe and each rank's own task to get both answers."""

    def run(recipe, *tasks, **job):
        return ranks(recipe, *(tasks or ({}, {})), **job)

    return run


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_two_ranks_stop_together_and_resume_bit_for_bit(pair, tmp_path, num_workers):
    whole = tiny_recipe(tmp_path / "whole", accumulate=2, epochs=2, num_workers=num_workers)
    parts = tiny_recipe(tmp_path / "parts", accumulate=2, epochs=2, num_workers=num_workers)
    assert pair(whole) == [{"signal": None, "steps": 12}] * 2
    # Only rank 1 gets the signal, in its second part of step 4.
    assert pair(parts, {}, {"stop_at": 8}) == [{"signal": signal.SIGTERM, "steps": 4}] * 2
    assert pair(parts, resume=True) == [{"signal": None, "steps": 12}] * 2
    assert_identical(final_state(parts.output), final_state(whole.output))


def test_both_ranks_validate_with_the_saved_statistics(pair, tmp_path):
    recipe = tiny_recipe(tmp_path, epochs=1)
    pair(recipe)
    task = TinyTask()
    data = task.data("validation")
    model = load_checkpoint(tmp_path / "last.safetensors", model=task.model(data))
    found = task.evaluate(model, data, device="cpu", distributed=False)
    row = final_state(tmp_path)["rows"][0]
    assert row["validation_loss"] == near(found["loss"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_equal_one(pair, tmp_path, accumulate):
    changes = {"optimizer": "sgd", "lr": 0.1, "batch_size": 12}
    one = tiny_recipe(tmp_path / "one", **changes)
    two = tiny_recipe(tmp_path / "two", accumulate=accumulate, **changes)
    result = train(one, task=TinyTask(plain=True))
    assert pair(two, {"plain": True}, {"plain": True}) == [{"signal": None, "steps": result.steps}] * 2
    first, second = (load_file(recipe.output / "last.safetensors") for recipe in (one, two))
    assert_near(first, second)
    logs = [final_state(recipe.output)["rows"] for recipe in (one, two)]
    for row, other in zip(*logs, strict=True):
        assert row == near(other)


def test_non_finite_loss_on_one_rank_stops_both(pair, tmp_path):
    # The second half of the third batch, which is rank 1's.
    bad = epoch_order(LENGTHS["train"], seed=7, epoch=0)[10]
    recipe = tiny_recipe(tmp_path, checkpoint_every=1)
    first, second = pair(recipe, {"poison": (bad,)}, {"poison": (bad,)})
    assert first == second
    assert f"train/{bad}" in first["sample_ids"]
    assert len(first["sample_ids"]) == 2
    assert saved_position(tmp_path)["step"] == 2


def test_another_number_of_ranks_goes_on_with_a_warning(pair, tmp_path):
    recipe = tiny_recipe(tmp_path)
    pair(recipe, {"stop_at": 8}, {})
    with pytest.warns(UserWarning, match=r"was on 2 processes \(ddp\) and goes on with 1 \(ddp\)"):
        assert train(recipe, task=TinyTask(), resume=True).steps == 18


@pytest.mark.slow  # a signal to each rank is a fast test
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_saves_and_resumes_bit_for_bit(tmp_path, number):
    whole, parts = tiny_recipe(tmp_path / "whole"), tiny_recipe(tmp_path / "parts", num_workers=2)
    train(whole, task=TinyTask())
    process = start()
    send(process, parts, delay=0.05)
    for _ in range(9):
        assert process.stdout.readline().startswith("step")
    os.killpg(process.pid, number)
    *_, answer = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    assert json.loads(answer)["signal"] == number
    assert 9 <= json.loads(answer)["steps"] < 18
    train(parts, task=TinyTask(), resume=True)
    assert_identical(final_state(parts.output), final_state(whole.output))


def test_refuses_one_named_gpu_for_two_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="names one GPU for 2 processes"), process_group("cuda:1"):
        pass


def test_refuses_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="not there"), process_group("cuda"):
        pass


def test_the_log_names_the_slowest_rank(pair, tmp_path):
    # Whole numbers of binary places, so that sums are exact.
    recipe = tiny_recipe(tmp_path, epochs=1)
    pair(recipe, {"seconds": 0.25}, {"seconds": 0.5})
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert (row["slowest_rank"], row["slowest_seconds"], row["fastest_seconds"]) == (1, 3.0, 1.5)


def test_seconds_of_ranks_that_are_gone_are_dropped(pair, tmp_path):
    recipe = tiny_recipe(tmp_path, epochs=1)
    pair(recipe, {"seconds": 0.25}, {"seconds": 0.5, "stop_at": 2})
    with pytest.warns(UserWarning, match="goes on with 1"):
        train(recipe, task=TinyTask(), resume=True)
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert row["slowest_rank"] == 0
    assert 0 < row["slowest_seconds"] == row["fastest_seconds"] <= row["seconds"]


def test_refuses_shared_statistics_on_the_cpu(pair, tmp_path):
    answers = pair(tiny_recipe(tmp_path, sync_norms=True))
    assert all("sync_norms needs a GPU for each process" in answer["error"] for answer in answers)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_shared_statistics_of_one_process_are_its_own(tmp_path):
    first, second = tiny_recipe(tmp_path / "1", epochs=1), tiny_recipe(tmp_path / "2", epochs=1)
    train(first, task=TinyTask())
    train(dataclasses.replace(second, sync_norms=True), task=TinyTask())
    assert_identical(final_state(first.output), final_state(second.output))
