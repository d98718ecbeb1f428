"""Several processes at one list, and what a kill leaves."""

import json
import os
import signal

import pytest
from bulk_processes import Starter
from bulk_runs import contents, fill, settings

from nonlocalnn.bulk import predict_list

pytest.importorskip("fcntl")


@pytest.fixture(scope="module")
def starter():
    starter = Starter()
    yield starter
    starter.close()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_processes_writes_the_same(place, expected, starter, tmp_path, world_size):
    pids = [
        starter.start(**settings(place, tmp_path, rank=rank, world_size=world_size, num_workers=rank))
        for rank in range(world_size)
    ]
    assert [starter.wait(pid) for pid in pids] == [0] * world_size
    assert contents(tmp_path) == expected


def test_killed_at_every_step_it_goes_on_to_the_same_bytes(place, expected, starter, tmp_path):
    """Each attempt comes one step further or finishes, and leaves what the next one finds."""
    killed = 0
    for die in range(1, 100):
        pid = starter.start(**settings(place, tmp_path, rank=die % 3, world_size=3), die=die)
        if starter.wait(pid) == 0:
            break
        killed += 1
        for path in tmp_path.glob("part-*"):
            assert path.read_bytes() == expected[path.name]
    assert killed > 5
    assert contents(tmp_path) == expected


def test_killed_at_the_same_step_again_and_again_it_never_loses_a_part(place, expected, starter, tmp_path):
    """The eighth step is that the second file has its name: a file or two a time, until none is left."""
    for _ in range(20):
        pid = starter.start(**settings(place, tmp_path), die=8)
        if starter.wait(pid) == 0:
            break
    assert contents(tmp_path) == expected


def test_two_processes_killed_beside_each_other(place, expected, starter, tmp_path):
    for steps in ((3, 6), (5, 5), (9, 2), (7, 10)):
        ranks = [settings(place, tmp_path, rank=rank, world_size=2) for rank in range(2)]
        pids = [starter.start(**run, die=die) for run, die in zip(ranks, steps, strict=True)]
        statuses = [starter.wait(pid) for pid in pids]
        assert set(statuses) <= {0, -signal.SIGKILL}
    assert contents(tmp_path) != expected
    assert predict_list(**settings(place, tmp_path)).failed == 4
    assert contents(tmp_path) == expected


def test_a_part_that_another_process_works_on_is_left_to_it_until_it_dies(place, expected, starter, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    holder = starter.hold(output, part=0, pause=True)
    found = predict_list(**settings(place, output))
    assert (found.unfinished, found.failed) == (1, None)
    assert not found.failures.exists()
    assert not (output / "part-000000.jsonl").exists()
    assert "parts" not in json.loads((output / "manifest.json").read_text())
    os.kill(holder, signal.SIGKILL)
    assert starter.wait(holder) == -signal.SIGKILL
    assert predict_list(**settings(place, output)).failed == 4
    assert contents(output) == expected


@pytest.mark.parametrize("finished", [False, True], ids=["written", "found"])
def test_a_claim_ends_with_its_part(place, expected, starter, tmp_path, finished):
    output, statuses = tmp_path / "out", []
    output.mkdir()
    if finished:
        fill(output, {name: expected[name] for name in ("manifest.json", "part-000000.jsonl")})

    def watch(counts, total):
        for count in counts:
            if count == 12:
                statuses.append(starter.wait(starter.hold(output, part=0, pause=False)))
            yield count

    predict_list(**settings(place, output), watch=watch)
    assert statuses == [0]
