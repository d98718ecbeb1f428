import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_task import LENGTHS, TinyTask, assert_identical, final_state, tiny_recipe

from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.train import train
from nonlocalnn.train.distributed import process_group
from nonlocalnn.train.order import epoch_order

SCRIPT = Path(__file__).with_name("tiny_process.py")


def start(rank, world_size):
    paths = os.pathsep.join([*filter(None, sys.path), str(SCRIPT.parent)])
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths, **ranks},
        text=True,
        start_new_session=True,
    )


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def send(process, recipe, *, resume=False, port=0, **task):
    job = {"recipe": recipe.to_dict(), "task": task, "resume": resume, "port": port}
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()


@pytest.fixture(scope="module")
def pair():
    """Two ranks; call with a recipe and each rank's own task to get both answers."""
    processes = [start(rank, 2) for rank in range(2)]

    def run(recipe, *tasks, resume=False):
        port = free_port()
        for process, task in zip(processes, tasks or ({}, {}), strict=True):
            send(process, recipe, resume=resume, port=port, **task)
        return [json.loads(process.stdout.readline()) for process in processes]

    yield run
    for process in processes:
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.mark.parametrize("num_workers", [0, 2])
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
    assert row["validation_loss"] == pytest.approx(found["loss"], rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_equal_one(pair, tmp_path, accumulate):
    changes = {"optimizer": "sgd", "lr": 0.1, "batch_size": 12}
    one = tiny_recipe(tmp_path / "one", **changes)
    two = tiny_recipe(tmp_path / "two", accumulate=accumulate, **changes)
    result = train(one, task=TinyTask(plain=True))
    assert pair(two, {"plain": True}, {"plain": True}) == [{"signal": None, "steps": result.steps}] * 2
    first, second = (load_file(recipe.output / "last.safetensors") for recipe in (one, two))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    logs = [final_state(recipe.output)["rows"] for recipe in (one, two)]
    for row, other in zip(*logs, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_non_finite_loss_on_one_rank_stops_both(pair, tmp_path):
    # The second half of the third batch, which is rank 1's.
    bad = epoch_order(LENGTHS["train"], seed=7, epoch=0)[10]
    recipe = tiny_recipe(tmp_path, checkpoint_every=1)
    first, second = pair(recipe, {"poison": (bad,)}, {"poison": (bad,)})
    assert first == second
    assert f"train/{bad}" in first["sample_ids"]
    assert len(first["sample_ids"]) == 2
    assert torch.load(tmp_path / "last.pt", weights_only=True)["position"]["step"] == 2


def test_another_number_of_ranks_goes_on_with_a_warning(pair, tmp_path):
    recipe = tiny_recipe(tmp_path)
    pair(recipe, {"stop_at": 8}, {})
    with pytest.warns(UserWarning, match="was on 2 processes and goes on with 1"):
        assert train(recipe, task=TinyTask(), resume=True).steps == 18


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_saves_and_resumes_bit_for_bit(tmp_path, number):
    whole, parts = tiny_recipe(tmp_path / "whole"), tiny_recipe(tmp_path / "parts", num_workers=2)
    train(whole, task=TinyTask())
    process = start(0, 1)
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
