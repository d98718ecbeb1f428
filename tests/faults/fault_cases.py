"""Faults of the disk, the clock and the run's folder, and kills inside its saves."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import torch
from fault_data import image_folder
from fault_points import Fault
from fault_rows import LONG, Row, readable_by_all, stop_and_mend
from fault_runs import steps_done

MOMENTS = ("begin", "half", "whole", "synced", "renamed")
STATE_MOMENTS = (
    *("moved last.new", "moved last", "half tensors", "whole tensors", "synced tensors"),
    *(f"{moment} manifest.json" for moment in MOMENTS),
)
# The state is at the end of the run, and no file that follows from it is.
LAST_STATE = ("moved last.new", 24)
# When the fifth state is about to be written.
_BEFORE_A_STATE = "renamed last.safetensors", 4
FOLLOWERS = ("log.jsonl", "log.csv", "last.safetensors", "best.safetensors", "recipe.json")


def die_in_saves(bench, *chains):
    """Kill a run at each moment of its saves in turn, then let it finish.

    Args:
        bench: Where to run.
        chains: For each run the moments, as :class:`fault_points.Fault` takes them, with the count.
    """
    row = Row("killed inside a save")
    words = (*image_folder(bench.folder / "images"), *LONG)
    expected = bench.reference(words)
    for moments in chains:
        output, steps = bench.place(), 0
        for moment, count in moments:
            ended = bench.run(words, output, fault=Fault(moment, count=count))
            row.count(moment, ended)
            assert f"killed at {moment}\n" in ended.said, f"{moment} was not reached: {ended.said}"
            assert steps_done(output) >= steps, f"steps were lost at {moment}"
            steps = steps_done(output)
        ended = bench.run(words, output)
        assert ended.status == 0, ended.said
        row.compare(expected, output)
    return row


def all_save_moments():
    """Return every moment of a save; those of followers once when a run goes on, once in a save."""
    state = [(moment, 1) for moment in STATE_MOMENTS]
    followers = [
        (f"{moment} {name}", count)
        for name in FOLLOWERS
        for count in ((1,) if name in ("recipe.json", "best.safetensors") else (1, 2))
        for moment in MOMENTS
    ]
    return [*state, *followers, *((f"{moment} metrics.json", 1) for moment in MOMENTS)]


def file_too_large(bench):
    """Let the system refuse to write files beyond a size, at the state, the weights and the log."""
    row = Row("disk: file too large")
    words = (*image_folder(bench.folder / "images"), *LONG)
    faults = {
        "last": Fault(*_BEFORE_A_STATE, action="limit", amount=300_000),
        "last.safetensors": Fault("begin last.safetensors", count=5, action="limit", amount=200_000),
        "best.safetensors": Fault("begin best.safetensors", count=2, action="limit", amount=200_000),
        "log.jsonl": Fault("begin log.jsonl", count=16, action="limit", amount=1000),
    }
    return row, stop_and_mend(bench, row, words, faults)


@contextmanager
def small_disk(folder, size):
    """Mount a small file system; raises PermissionError where that is not allowed."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        raise PermissionError("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def no_space(bench, names=("last", "last.safetensors", "log.jsonl")):
    """Fill the disk at the writing of each of these files, then make space again."""
    row = Row("disk: no space left")
    words = (*image_folder(bench.folder / "images"), *LONG)
    with small_disk(bench.folder / "disk", "16m") as disk:
        ballast = disk / "ballast"
        faults = {
            name: Fault(*moment, action="fill", path=str(ballast), amount=amount)
            for name, moment, amount in (
                ("last", _BEFORE_A_STATE, 500_000),
                ("last.safetensors", ("begin last.safetensors", 5), 200_000),
                ("log.jsonl", ("begin log.jsonl", 5), 0),
            )
            if name in names
        }

        def place():
            shutil.rmtree(disk / "run", ignore_errors=True)
            return disk / "run"

        return row, stop_and_mend(bench, row, words, faults, mend=ballast.unlink, output=place)


def _tensors(state):
    (path,) = state.glob("*.distcp")
    return path


def flip_a_bit(state):
    path = _tensors(state)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(state):
    path = _tensors(state)
    os.truncate(path, path.stat().st_size // 2)


def empty(state):
    os.truncate(_tensors(state), 0)


def write_something_else(state):
    torch.save({"weights": torch.zeros(3)}, _tensors(state))


def write_an_incomplete_state(state):
    (state / "manifest.json").write_text('{"format": 1}')


DAMAGES = (flip_a_bit, cut_in_half, empty, write_something_else, write_an_incomplete_state)


def damaged_states(bench, damages=DAMAGES):
    """Damage the newest state of a killed run, then both; return the stops of the latter."""
    row, stops = Row("state damaged"), {}
    words = (*image_folder(bench.folder / "images"), *LONG)
    expected, killed = bench.reference(words), bench.place()
    bench.run(words, killed, fault=Fault("renamed last.safetensors", count=5))
    for damage in damages:
        output = bench.place()
        shutil.copytree(killed, output)
        damage(output / "last")
        ended = bench.run(words, output)
        row.count(f"newest: {damage.__name__}", ended)
        row.of += 1
        if ended.status == 0:
            row.of -= 1
            row.compare(expected, output)
            assert "going on from the older" in ended.said, ended.said
        both = bench.place()
        shutil.copytree(killed, both)
        for name in ("last", "last.previous"):
            damage(both / name)
        stops[damage.__name__] = bench.run(words, both)
        row.count(f"both: {damage.__name__}", stops[damage.__name__])
    return row, stops


def clock_set_back(bench):
    """Let time run backwards, and files be of a time to come."""
    row = Row("clock set back")
    words = (*image_folder(bench.folder / "images"), *LONG)
    expected, output = bench.reference(words), bench.place()
    bench.run(words, output, fault=Fault("renamed last.safetensors", count=5))
    for path in output.iterdir():
        os.utime(path, (4e9, 4e9))
    row.count("clock set back", bench.run(words, output, fault=Fault(action="clock")))
    row.compare(expected, output)
    return row


def read_only_output(bench):
    """Let a run go on in a folder that it must not write to, then allow it."""
    row = Row("output read-only")
    words = (*image_folder(bench.folder / "images"), *LONG)
    expected, output = bench.reference(words), bench.place()
    bench.run(words, output, fault=Fault("renamed last.safetensors", count=5))
    output.chmod(0o555)
    with readable_by_all(bench):
        stop = bench.run(words, output, fault=Fault(action="nobody"))
    row.count("read-only", stop)
    output.chmod(0o755)
    assert bench.run(words, output).status == 0
    row.compare(expected, output)
    return row, stop


def vanishing_output(bench):
    """Take the output folder away in mid-run: for good, and with a file in the place of its parent."""
    row, stops = Row("output vanishes"), {}
    words = (*image_folder(bench.folder / "images"), *LONG)
    expected = bench.reference(words)
    for name, action in (("removed", "remove"), ("a file in its parent's place", "replace")):
        parent = bench.place()
        output = parent / "run"
        taken = output if action == "remove" else parent
        stops[name] = bench.run(
            words, output, fault=Fault("sample", count=40, action=action, path=str(taken))
        )
        row.count(name, stops[name])
        if action == "remove":
            row.compare(expected, output)
    return row, stops
