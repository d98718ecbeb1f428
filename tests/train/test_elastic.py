"""One command that both begins and goes on, under a real torchrun that starts the workers again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import workers
from tiny_task import TinyTask, assert_identical, final_state, tiny_recipe

from nonlocalnn.train import train

ITERATIONS = 16


def command(output):
    words = {
        "--data": "digits",
        "--image-size": "8",
        "--batch-size": "128",
        "--iterations": ITERATIONS,
        "--checkpoint-every": "1",
        "--device": "cpu",
        "--parallel": "fsdp",
        "--output": output,
    }
    flags = [str(word) for pair in words.items() for word in pair]
    # One for the kill; the others in case another process takes the port that torchrun chose for its workers.
    runner = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3"]
    return [sys.executable, "-m", *runner, "-m", "nonlocalnn", "train", *flags, "--resume-if-any"]


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_a_worker_that_is_killed_costs_the_steps_since_the_last_state(tmp_path):
    output = tmp_path / "run"
    process = subprocess.Popen(
        command(output),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Without the second, workers that start again may find the addresses of those before them.
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )
    # The first epoch has nine steps; its row is written after its state.
    log = output / "log.jsonl"
    wait_for(lambda: log.exists() and log.read_text(), process)
    os.kill(max(workers(process.pid)), signal.SIGKILL)
    words, notes = process.communicate(timeout=200)
    assert process.returncode == 0, notes
    # The main worker may have died before it could say so, but no epoch was trained twice.
    assert notes.count("epoch 1/2") <= 1
    assert notes.count("epoch 2/2") == 1
    assert words.count("results in") == 1
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [9, ITERATIONS]
    assert json.loads((output / "metrics.json").read_text())["processes"] == 2


def test_begins_where_there_is_nothing_and_goes_on_where_there_is(tmp_path):
    whole, parts = tiny_recipe(tmp_path / "whole"), tiny_recipe(tmp_path / "parts")
    train(whole, task=TinyTask())
    assert train(parts, task=TinyTask(stop_at=4), resume="if any").steps == 4
    assert train(parts, task=TinyTask(), resume="if any").steps == 18
    assert_identical(final_state(whole.output), final_state(parts.output))


@pytest.mark.slow
def test_a_sharded_run_begins_and_goes_on_with_one_command(ranks, tmp_path):
    recipe = tiny_recipe(tmp_path, parallel="fsdp", epochs=1)
    ranks(recipe, {"stop_at": 3}, {}, resume="if any")
    assert ranks(recipe, {}, {}, resume="if any") == [{"signal": None, "steps": 6}] * 2


def test_a_state_of_an_older_version_goes_on(tmp_path):
    recipe = tiny_recipe(tmp_path, epochs=2, schedule="constant")
    train(recipe, task=TinyTask(stop_at=8))
    saved = json.loads((tmp_path / "last" / "manifest.json").read_text())
    for name in ("parallel", "sync_norms", "activation_checkpointing"):
        del saved["recipe"][name]
    del saved["position"]["own_seconds"]
    for row in saved["position"]["rows"]:
        del row["slowest_rank"], row["slowest_seconds"], row["fastest_seconds"]
    (tmp_path / "last" / "manifest.json").write_text(json.dumps(saved))
    assert train(recipe, task=TinyTask(), resume=True).steps == 12
    head, first, second = (tmp_path / "log.csv").read_text().splitlines()
    assert head.endswith("slowest_rank,slowest_seconds,fastest_seconds")
    assert first.endswith(",,,")
    assert second.split(",")[-3] == "0"


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_damaged_state_never_takes_the_place_of_a_whole_one(tmp_path, parallel):
    recipe = tiny_recipe(tmp_path, parallel=parallel, checkpoint_every=2)
    train(recipe, task=TinyTask(stop_at=9))
    large = max((tmp_path / "last").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(large, large.stat().st_size // 2)
    kept = contents(tmp_path / "last.previous")
    with pytest.warns(UserWarning, match="going on from the older"):
        train(recipe, task=TinyTask(stop_at=1), resume=True)
    # Were the damaged one kept as the state before, a kill inside this save would have left nothing whole.
    assert contents(tmp_path / "last.previous") == kept
    assert train(recipe, task=TinyTask(), resume=True).steps == 18


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
