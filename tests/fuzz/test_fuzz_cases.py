"""Five hundred cases, the same each time; ``python tests/fuzz/run_fuzz.py`` runs as many others as asked."""

import collections
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_checkpoints import File, prepare_file
from fuzz_files import FILES
from fuzz_outcome import outcome_of
from fuzz_rooms import ROOMS, stop_at_first
from fuzz_watch import watched

RUN = Path(__file__).with_name("run_fuzz.py")


@pytest.mark.parametrize(("room", "cases"), [("operation", 230), ("blocks", 60), ("networks", 50)])
def test_what_is_in_memory(room, cases, tmp_path):
    stop_at_first(room, cases=cases, folder=tmp_path)


def test_files():
    """In a process of their own: a crash there is a failure here."""
    rooms = [name for name, room in ROOMS.items() if room.reads_files]
    done = subprocess.run(
        [sys.executable, str(RUN), "--here", "--cases", "24", "--seed", "7", "--rooms", *rooms],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: room["findings"] for name, room in found.items()} == {name: [] for name in rooms}
    outcomes = sum((collections.Counter(room["outcomes"]) for room in found.values()), collections.Counter())
    # Damage that is never refused, or never spares a file, would test nothing.
    assert outcomes["refused"] > 6
    assert outcomes["answered"] > 2
    assert outcomes.total() >= 21


def test_the_watch_sees_what_a_canary_does(tmp_path):
    """The files that must run nothing do run something in hands that are careless."""
    path, must_fail = prepare_file(File("canary", FILES[2]), tmp_path)
    assert must_fail
    with pytest.raises(AssertionError, match=r"reading did .*pickle.find_class"), watched():
        pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()


def test_errors_of_others_are_no_refusals():
    with pytest.raises(AssertionError, match="refused, and not we"):
        outcome_of(lambda: json.loads("{"), ValueError)
    with pytest.raises(ZeroDivisionError):
        outcome_of(lambda: 1 / 0, ValueError)
