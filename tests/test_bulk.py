"""Lists of files: what is answered, who does which part, and what a kill leaves."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.bulk import predict_list
from nonlocalnn.bulk.path_list import index_list
from videos import cut, grey_frames, write_video

fcntl = pytest.importorskip("fcntl")
FACTS = {"classes": [str(digit) for digit in range(10)], "sample_shape": [1, 28, 28]}

# Starts processes by forking, so that each costs no import. A child may be told to be killed at its n-th step
# on the way to a file that is there: before it is on the disk, before it has its name, or after.
STARTER = """
import json, os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from nonlocalnn.bulk import predict_list
from nonlocalnn.bulk.claims import Claims

def dying(function, after, count=[0]):
    def step(*values):
        for moment in (False, True):
            if moment:
                function(*values)
            count[0] += 1
            if count[0] == after:
                os.kill(os.getpid(), signal.SIGKILL)
    return step

for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        if "hold" in job:
            claims = Claims(Path(job["hold"]))
            with claims.manifest():
                pass
            taken = claims.take(job["part"])
            Path(job["ready"]).touch()
            if job["pause"]:
                signal.pause()
            os._exit(not taken)
        if die := job.pop("die", None):
            os.fsync, os.replace = dying(os.fsync, die), dying(os.replace, die)
        try:
            predict_list(**job)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    print(pid, flush=True)
"""


class Starter:
    def __init__(self):
        paths = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def _ask(self, job):
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, **job):
        return self._ask(job)

    def wait(self, pid):
        return self._ask({"wait": pid})


@pytest.fixture(scope="module")
def starter():
    starter = Starter()
    yield starter
    starter.process.communicate(timeout=30)
    assert starter.process.returncode == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model, 40 images of which four cannot be read, and their list."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("bulk")
    for name in ("model", "other"):
        model = randomize_(nl.create_model("nl_digits"))
        with torch.no_grad():
            model.fc[-1].weight *= 1e-4
        nl.save_checkpoint(model, place / f"{name}.safetensors", metadata=FACTS)
    names = [f"images/{number:02}.png" for number in range(40)]
    (place / "images").mkdir()
    for name in names:
        pixels = (torch.rand(9, 7) * 255).byte()
        Image.fromarray(pixels.numpy()).save(place / name)
    (place / names[3]).write_bytes((place / names[3]).read_bytes()[:60])
    (place / names[17]).write_text("no image")
    (place / names[18]).unlink()
    (place / names[39]).unlink()
    (place / names[39]).mkdir()
    (place / "files.txt").write_text("".join(f"{name}\n" for name in names))
    return place


def settings(place, output, **changes):
    return {
        "list_path": place / "files.txt",
        "output_folder": output,
        "model": place / "model.safetensors",
        "device": "cpu",
        "shard_size": 6,
        "batch_size": 4,
        **changes,
    }


def contents(folder):
    """Return every file's bytes, but for the claims."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".claims"}


def answers(folder):
    parts = sorted(folder.glob("part-*"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(place, tmp_path_factory):
    """Return what one process writes without being disturbed."""
    folder = tmp_path_factory.mktemp("expected")
    assert predict_list(**settings(place, folder)).failed == 4
    return contents(folder)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lines_are_those_of_predict_many(place, tmp_path, num_workers):
    """With the defaults of both, over more than a batch, and with as many failures in it."""
    names = [str(place / "images" / f"{number % 39:02}.png") for number in range(75)]
    classifier = nl.load_classifier(place / "model.safetensors")
    readable = [name for name in names if "images/18" not in name]
    (tmp_path / "list.txt").write_text("\n".join(readable))
    found = predict_list(
        tmp_path / "list.txt",
        tmp_path / "out",
        model=place / "model.safetensors",
        device="cpu",
        num_workers=num_workers,
    )
    lines = [json.dumps(answer) + "\n" for answer in classifier.predict_many(readable)]
    assert (tmp_path / "out/part-000000.jsonl").read_text() == "".join(lines)
    assert (found.lines, found.unfinished) == (73, 0)
    assert found.failed == sum("error" in line for line in lines) == 4


def test_each_part_is_answered_by_itself(place, expected):
    classifier = nl.load_classifier(place / "model.safetensors")
    # No failure among these, and a batch of four and one of two.
    paths = [place / "images" / f"{number:02}.png" for number in range(6, 12)]
    rows = [json.loads(line) for line in expected["part-000001.jsonl"].splitlines()]
    found = classifier.predict_many(paths, batch_size=4)
    assert rows == [{**row, "path": f"images/{Path(row['path']).name}"} for row in found]


def test_every_line_has_its_answer_in_order(place, expected, tmp_path):
    predict_list(**settings(place, tmp_path, top=2))
    rows = answers(tmp_path)
    assert [row["path"] for row in rows] == (place / "files.txt").read_text().split()
    assert len({row["probability"] for row in rows if "error" not in row}) == 36
    failed = [number for number, row in enumerate(rows) if "error" in row]
    assert failed == [3, 17, 18, 39]
    assert rows[18] == {"path": "images/18.png", "error": f"no such image: {place}/images/18.png"}
    assert {len(row["top"]) for row in rows if "error" not in row} == {2}
    lines = (tmp_path / "failed.txt").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [[rows[n]["path"], rows[n]["error"]] for n in failed]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [row["lines"] for row in manifest["parts"]] == [6] * 6 + [4]
    assert [row["failed"] for row in manifest["parts"]] == [1, 0, 1, 1, 0, 0, 1]
    assert manifest["failed"] == 4
    assert manifest["list"]["lines"] == 40
    assert manifest["nonlocalnn"] == {"version": nl.__version__}


def test_names_of_any_bytes_blank_lines_and_repeats(place, tmp_path):
    odd = b"\xff\xfe \xe9.png"
    os.symlink(place / "images/00.png", os.fsencode(tmp_path) + b"/" + odd)
    os.symlink(place / "images/01.png", tmp_path / " two words .png")
    lines = b"\xef\xbb\xbf" + odd + b"\r\n\n \t\n two words .png\n" + odd + b"\n\xfe\0.png\n\n" + odd
    (tmp_path / "list.txt").write_bytes(lines)
    run = settings(place, tmp_path / "out", list_path=tmp_path / "list.txt", shard_size=2)
    found = predict_list(**run)
    assert (found.lines, found.blank, found.repeated, found.failed) == (5, 3, 2, 1)
    rows = answers(tmp_path / "out")
    names = [os.fsencode(row["path"]) for row in rows]
    assert names == [odd, b" two words .png", odd, b"\xfe\0.png", odd]
    assert rows[0]["class"] == rows[2]["class"] == rows[4]["class"]
    assert "class" in rows[1]
    assert found.failures.read_bytes().startswith(b"\xfe\0.png\t")
    assert predict_list(**run) == found


def test_a_path_that_looks_like_an_error(place, tmp_path):
    name = 'a", "error": "b.png'
    os.symlink(place / "images/00.png", tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{name}\n{{'error': 1}}\n")
    run = settings(place, tmp_path / "out", list_path=tmp_path / "list.txt")
    assert predict_list(**run).failed == 1
    assert ["error" in row for row in answers(tmp_path / "out")] == [False, True]


def test_no_graph_is_kept_for_gradients(place, tmp_path):
    graphs = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda *_: graphs.append(torch.is_grad_enabled())
    )
    try:
        predict_list(**settings(place, tmp_path))
    finally:
        hook.remove()
    assert set(graphs) == {False}


def test_a_root_of_its_own(place, tmp_path):
    (tmp_path / "list.txt").write_text("00.png\n")
    run = settings(place, tmp_path / "out", list_path=tmp_path / "list.txt", root=place / "images")
    assert predict_list(**run).failed == 0


@pytest.mark.parametrize("views", [None, 30])
def test_videos(tmp_path, views):
    torch.manual_seed(0)
    facts = {"classes": ["a", "b"], "sample_shape": [3, 8, 32, 32], "stride": 2, "multi_label": True}
    model = randomize_(nl.create_model("c2d_tiny", num_classes=2))
    with torch.no_grad():
        model.fc.weight *= 0.01
    nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata={**facts, "mean": 100.0})
    write_video(tmp_path / "a.mp4")
    write_video(tmp_path / "b.mp4", grey_frames(9))
    cut(tmp_path / "a.mp4", tmp_path / "cut.mp4")
    (tmp_path / "frames.png").mkdir()
    Image.new("RGB", (40, 36)).save(tmp_path / "frames.png/0.png")
    paths = [str(tmp_path / name) for name in ("a.mp4", "cut.mp4", "frames.png", "b.mp4")]
    image = f"{tmp_path}/frames.png/0.png"
    (tmp_path / "list.txt").write_text("\n".join([*paths, image]))
    predict_list(
        tmp_path / "list.txt", tmp_path / "out", model=tmp_path / "m.safetensors", device="cpu", views=views
    )
    rows = answers(tmp_path / "out")
    asked = nl.load_classifier(tmp_path / "m.safetensors").predict_many(paths, views=views)
    assert rows[:4] == json.loads(json.dumps(list(asked)))
    assert ["error" in row for row in rows] == [False, True, False, False, True]
    assert rows[4]["error"].startswith(f"{image} is an image, and the model takes videos")
    settings = json.loads((tmp_path / "out/manifest.json").read_text())["settings"]
    assert (settings["views"], settings["batch_size"]) == (views or 1, 8)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_processes_writes_the_same(place, expected, starter, tmp_path, world_size):
    pids = [
        starter.start(**settings(place, tmp_path, rank=rank, world_size=world_size, num_workers=rank))
        for rank in range(world_size)
    ]
    assert [starter.wait(pid) for pid in pids] == [0] * world_size
    assert contents(tmp_path) == expected


def test_one_of_many_does_everything_where_the_others_never_come(place, expected, tmp_path):
    assert predict_list(**settings(place, tmp_path, rank=3, world_size=8)).unfinished == 0
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


def test_two_processes_killed_at_random_moments(place, expected, starter, tmp_path):
    chance = random.Random(0)
    for attempt in range(6):
        pids = [starter.start(**settings(place, tmp_path, rank=r, world_size=2)) for r in range(2)]
        time.sleep(chance.uniform(0.02, 0.3))
        if attempt < 5:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        statuses = {starter.wait(pid) for pid in pids}
        assert statuses <= {0, -signal.SIGKILL}
    assert statuses == {0}
    assert contents(tmp_path) == expected


def test_a_part_that_another_process_works_on_is_left_to_it_until_it_dies(place, expected, starter, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    holder = starter.start(hold=output / ".claims", part=0, ready=tmp_path / "ready", pause=True)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
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
        for name in ("manifest.json", "part-000000.jsonl"):
            (output / name).write_bytes(expected[name])

    def watch(counts, total):
        for count in counts:
            if count == 12:
                holder = starter.start(hold=output / ".claims", part=0, ready=tmp_path / "ready", pause=False)
                statuses.append(starter.wait(holder))
            yield count

    predict_list(**settings(place, output), watch=watch)
    assert statuses == [0]


def test_a_process_begins_with_its_share_and_then_helps(place, tmp_path):
    done = []

    def watch(counts, total):
        for count in counts:
            parts = sorted(int(path.stem[5:]) for path in tmp_path.glob("part-*"))
            done.extend(part for part in parts if part not in done)
            yield count

    predict_list(**settings(place, tmp_path, rank=1, world_size=3), watch=watch)
    assert done == [1, 4, 6, 5, 3, 2, 0]


def test_without_locks_each_takes_its_share_only(place, expected, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.warns(UserWarning, match=r"has no locks .*No locks available.* its own share of the parts"):
        found = predict_list(**settings(place, tmp_path, rank=0, world_size=2))
    assert (found.unfinished, found.failed) == (3, None)
    assert sorted(path.stem for path in tmp_path.glob("part-*")) == [f"part-{n:06}" for n in (0, 2, 4, 6)]
    with pytest.warns(UserWarning, match="no locks"):
        assert predict_list(**settings(place, tmp_path, rank=1, world_size=2)).failed == 4
    assert contents(tmp_path) == expected


def test_another_failure_of_a_lock_is_not_taken_for_a_claim(place, tmp_path, monkeypatch):
    real = fcntl.lockf

    def fail_later(handle, how, length, start):
        if start > 0 and how & fcntl.LOCK_NB:
            raise OSError(errno.EIO, "Input/output error")
        real(handle, how, length, start)

    monkeypatch.setattr(fcntl, "lockf", fail_later)
    with pytest.raises(OSError, match="Input/output error"):
        predict_list(**settings(place, tmp_path))


def test_finished_parts_are_not_done_again(place, expected, tmp_path):
    predict_list(**settings(place, tmp_path))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    (tmp_path / "part-000003.jsonl").unlink()
    del times[tmp_path / "part-000003.jsonl"]
    predict_list(**settings(place, tmp_path))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(tmp_path) == expected


def test_a_part_taken_away_may_become_another(place, tmp_path):
    """A file that could not be read is there by now."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        os.symlink(place / f"images/{number:02}.png", images / f"{number:02}.png")
    run = settings(place, tmp_path / "out", root=tmp_path)
    assert predict_list(**run).failed == 4
    (images / "17.png").unlink()
    os.symlink(place / "images/00.png", images / "17.png")
    assert predict_list(**run).failed == 4
    (tmp_path / "out/part-000002.jsonl").unlink()
    assert predict_list(**run).failed == 3
    assert predict_list(**run).failures.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"top": 2}, "settings top was 3 and is 2"),
        ({"batch_size": 5}, "settings batch_size was 4 and is 5"),
        ({"shard_size": 7}, "settings shard_size was 6 and is 7"),
        ({"precision": "bf16"}, "settings precision was 'fp32' and is 'bf16'"),
        ({"device": "meta"}, "settings device was 'cpu' and is 'meta'"),
        ({"root": "/"}, "list root was '.*' and is '/'"),
        ({"model": "other.safetensors"}, "model sha256 was"),
        ({"list_path": "changed.txt"}, "list sha256 was"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_nothing_is_mixed(place, expected, tmp_path, changes, says):
    for name, value in expected.items():
        (tmp_path / name).write_bytes(value)
    # A list of the same length, with the same files in another order.
    lines = (place / "files.txt").read_text().splitlines(keepends=True)
    (place / "changed.txt").write_text("".join(reversed(lines)))
    if next(iter(changes)) in ("model", "list_path"):
        changes = {name: place / value for name, value in changes.items()}
    with pytest.raises(ValueError, match=f"results of another run: {says}.*another folder"):
        predict_list(**settings(place, tmp_path, **changes))
    assert contents(tmp_path) == expected


def test_another_version_is_not_mixed(place, expected, tmp_path, monkeypatch):
    for name, value in expected.items():
        (tmp_path / name).write_bytes(value)
    monkeypatch.setattr(nl, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"nonlocalnn version was '.*' and is '0\.0\.1'"):
        predict_list(**settings(place, tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("part-000004.jsonl", lambda old: old[:-20], "is not the file that manifest.json lists: delete it"),
        (
            "part-000004.jsonl",
            lambda old: old + b"\n",
            "must have 6 lines, one for each .* it has 7: delete it",
        ),
        ("part-000006.jsonl", lambda old: b"", "must have 4 lines, one for each .* it has 0: delete it"),
        ("manifest.json", lambda old: old[:50], r"manifest\.json must be a manifest, and is none"),
        ("manifest.json", None, r"holds part-.* and no manifest\.json .*: take an empty folder"),
    ],
    ids=["bytes", "more", "empty", "manifest", "no manifest"],
)
def test_what_somebody_changed_is_found(place, expected, tmp_path, name, change, says):
    for each, value in expected.items():
        (tmp_path / each).write_bytes(value)
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(change(expected[name]))
    with pytest.raises(ValueError, match=says):
        predict_list(**settings(place, tmp_path))


def test_progress_counts_what_all_have_done(place, expected, tmp_path):
    seen = []

    def watch(counts, total):
        assert total == 40
        for count in counts:
            seen.append(count)
            yield count

    predict_list(**settings(place, tmp_path), watch=watch)
    assert seen == sorted(seen)
    assert (seen[:4], seen[-1]) == ([0, 4, 6, 10], 40)
    (tmp_path / "part-000001.jsonl").unlink()
    seen.clear()
    predict_list(**settings(place, tmp_path), watch=watch)
    assert seen == [36, 40, 40]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"rank": 2, "world_size": 2}, ValueError, "rank must be from 0 to world_size - 1; got rank 2 of 2"),
        ({"root": "/nowhere"}, FileNotFoundError, "relative to /nowhere, and there is no such folder"),
        ({"list_path": "images/none.txt"}, FileNotFoundError, "no such list of files"),
        ({"model": "none.safetensors"}, FileNotFoundError, "none.safetensors"),
        ({"model": "images/17.png"}, nl.CheckpointError, "17.png"),
        ({"top": 0}, ValueError, "top must be a whole number of at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1"),
        ({"shard_size": 0}, ValueError, "part_size must be a whole number of at least 1"),
        ({"views": 1}, ValueError, "views is a setting of models of videos"),
        ({"precision": "fp8"}, ValueError, "precision must be one of"),
        ({"device": "tpu"}, ValueError, "device must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings_write_nothing(place, tmp_path, changes, error, says):
    for name in ("list_path", "model"):
        if name in changes:
            changes = {**changes, name: place / changes[name]}
    with pytest.raises(error, match=says):
        predict_list(**settings(place, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "must list a path on each line; it lists none"),
        (b"\n \r\n", "must list a path on each line; it lists none"),
        (b"a.png\n" + bytes(1 << 16), "one has 65536 bytes or more"),
    ],
    ids=["empty", "blank", "no text"],
)
def test_what_is_no_list(tmp_path, text, says):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=says):
        index_list(tmp_path / "list.txt", part_size=10)


@pytest.mark.parametrize("part_size", [1, 3, 7, 8], ids=str)
def test_parts_are_consecutive_lines(tmp_path, part_size):
    (tmp_path / "list.txt").write_text("\n0\n1\n\n2\n3\n4\n\n\n5\n6")
    listed = index_list(tmp_path / "list.txt", part_size=part_size)
    read = [listed.read(part) for part in range(listed.parts)]
    assert [name for names in read for name in names] == list("0123456")
    assert [len(names) for names in read] == [listed.size(part) for part in range(listed.parts)]
    assert {len(names) for names in read[:-1]} <= {part_size}


@pytest.mark.parametrize("text", ["a\nb\nc\nx\n", "a\nb\nc\n", "a\nb\ncd\n"], ids=["other", "cut", "moved"])
def test_a_list_that_changes_meanwhile(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text("a\nb\nc\nd\n")
    listed = index_list(path, part_size=2)
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"list\.txt must stay as it is while it is worked on; it has changed"
    ):
        listed.read(1)
    assert listed.read(0) == ["a", "b"]


def test_a_list_is_not_held(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{number:0200}\n" for number in range(20_000)))
    tracemalloc.start()
    try:
        listed = index_list(tmp_path / "list.txt", part_size=1000)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listed.lines == 20_000
    # The lines are 4 MB.
    assert most < 600_000
    assert kept < 20_000
