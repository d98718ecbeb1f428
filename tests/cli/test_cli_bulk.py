"""``nonlocalnn predict --list``: alone, and as torchrun and SLURM start it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from nonlocalnn.bulk import BulkResult
from nonlocalnn.cli import main
from nonlocalnn.cli.predict import _own_device

pytest.importorskip("fcntl")
FACTS = {"classes": [str(digit) for digit in range(10)], "sample_shape": [1, 28, 28]}
SECOND_OF_TWO = {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}
NAMES = [f"{number:02}.png" for number in range(14)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("lists")
    nl.save_checkpoint(nl.create_model("nl_digits"), place / "model.safetensors", metadata=FACTS)
    for number, name in enumerate(NAMES):
        Image.new("L", (9, 7), 15 * number).save(place / name)
    (place / "good.txt").write_text("\n".join(NAMES))
    (place / "bad.txt").write_text("\n".join([*NAMES, "", NAMES[0], *(f"none{n}.png" for n in range(11))]))
    return place


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in list(os.environ):
        if name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") or name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def words(place, output, *more, files="good.txt"):
    paths = ["--list", place / files, "--output-folder", output, "--model", place / "model.safetensors"]
    return list(map(str, ["predict", *paths, "--device", "cpu", *more]))


def rows(folder):
    parts = sorted(folder.glob("part-*"))
    return [[json.loads(line) for line in part.read_text().splitlines()] for part in parts]


def test_all_predicted(place, tmp_path, capsys):
    assert main(words(place, tmp_path, "--top", "2", "--num-workers", "0")) == 0
    captured = capsys.readouterr()
    assert captured.out == f"predicted 14 of 14 files; results  {tmp_path}\n"
    assert captured.err == ""
    (part,) = rows(tmp_path)
    assert [row["path"] for row in part] == NAMES
    assert {len(row["top"]) for row in part} == {2}
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    assert settings == {
        "shard_size": 1000,
        "top": 2,
        "views": None,
        "batch_size": 64,
        "precision": "fp32",
        "device": "cpu",
    }


def test_failures_are_named_and_every_rerun_says_so(place, tmp_path, capsys):
    run = words(place, tmp_path, "--num-workers", "0", "--shard-size", "10", files="bad.txt")
    for _ in range(2):
        assert main(run) == 1
        captured = capsys.readouterr()
        assert captured.out == (
            f"predicted 15 of 26 files; results  {tmp_path}\n"
            "the list has 1 blank lines (left out) and 1 repeated paths (each has its answer)\n"
        )
        *named, last = captured.err.splitlines()
        assert named == [f"nonlocalnn predict: no such image: {place}/none{n}.png" for n in range(10)]
        assert last == f"nonlocalnn predict: 11 files failed: {tmp_path}/failed.txt"
    assert [len(part) for part in rows(tmp_path)] == [10, 10, 6]


def test_other_settings_are_refused_in_one_line(place, tmp_path, capsys):
    assert main(words(place, tmp_path, "--num-workers", "0")) == 0
    says = f"predict: {tmp_path} holds results of another run: settings batch_size"
    fails(capsys, *words(place, tmp_path, "--batch-size", "3"), status=1, says=says)


def test_a_root(place, tmp_path):
    (tmp_path / "list.txt").write_text(NAMES[0])
    run = words(tmp_path, tmp_path / "out", "--root", place, "--num-workers", "0", files="list.txt")
    run[run.index("--model") + 1] = str(place / "model.safetensors")
    assert main(run) == 0


@pytest.mark.slow
def test_two_processes_as_torchrun_starts_them(place, tmp_path):
    run = words(place, tmp_path / "two", "--shard-size", "2", files="bad.txt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-m", "nonlocalnn", *run],
            env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    output = [process.communicate(timeout=120) for process in processes]
    # Who finds everything done says what failed; the other stays silent, lest its status end the first.
    assert sorted(process.returncode for process in processes) in ([0, 1], [1, 1])
    for process, (out, err) in zip(processes, output, strict=True):
        assert ("11 files failed" in err) == (process.returncode == 1)
        assert ("nothing left to take; parts with other processes: " in out) == (process.returncode == 0)
    one = words(place, tmp_path / "one", "--shard-size", "2", "--num-workers", "0", files="bad.txt")
    assert main(one) == 1
    for path in (tmp_path / "one").glob("[!.]*"):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Settings of the calls of ``predict_list``, which does nothing and has left two parts to others."""
    asked = []

    def pretend(*paths, **settings):
        asked.append(settings)
        return BulkResult(14, 0, 0, unfinished=2, failed=None, failures=tmp_path / "failed.txt")

    monkeypatch.setattr("nonlocalnn.cli.predict.predict_list", pretend)
    return asked


def test_who_leaves_before_the_end_has_not_failed_and_shows_no_bar(
    place, tmp_path, asked, monkeypatch, capsys
):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(words(place, tmp_path)) == 0
    (settings,) = asked
    assert (settings["rank"], settings["world_size"], settings["watch"]) == (1, 2, None)
    assert settings["num_workers"] == 2
    assert "rank 1: nothing left to take; parts with other processes: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "rank", "world_size"),
    [
        ({"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}, 1, 3),
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}, 2, 4),
        # srun started torchrun on each of two machines.
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **SECOND_OF_TWO}, 3, 4),
        # In a batch script, outside of srun, nothing says which process this is.
        ({"SLURM_NTASKS": "4"}, 0, 1),
    ],
    ids=["torchrun", "srun", "torchrun in srun", "sbatch"],
)
def test_which_process_this_is(place, tmp_path, asked, monkeypatch, variables, rank, world_size):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(words(place, tmp_path)) == 0
    (settings,) = asked
    assert (settings["rank"], settings["world_size"]) == (rank, world_size)


@pytest.mark.parametrize(
    ("device", "local_rank", "world_size", "own"),
    [
        ("cuda", 5, 8, "cuda:1"),
        ("auto", 3, 4, "cuda:3"),
        ("cuda", 0, 1, "cuda:0"),
        ("cuda:2", 0, 1, "cuda:2"),
        ("cpu", 5, 8, "cpu"),
    ],
)
def test_each_process_has_a_gpu(monkeypatch, device, local_rank, world_size, own):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert _own_device(device, local_rank, world_size) == own


def test_one_gpu_for_all_is_refused(place, tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    run = words(place, tmp_path)
    run[run.index("cpu")] = "cuda:1"
    fails(capsys, *run, status=1, says="names one GPU for 2 processes: use 'cuda', one GPU for each")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: inputs (or --list)"),
        (["--list", "a.txt"], "--list needs --output-folder"),
        (["a.png", "--list", "a.txt", "--output-folder", "o"], "leave out INPUT"),
        (["--list", "a.txt", "--output-folder", "o", "--output", "o.jsonl"], "leave out --output"),
        (["a.png", "--output-folder", "o"], "--output-folder is a setting of --list: leave it out"),
        (["a.png", "--shard-size", "5"], "--shard-size is a setting of --list: leave it out"),
        (["a.png", "--num-workers", "0"], "--num-workers is a setting of --list: leave it out"),
        (["a.png", "--root", "."], "--root is a setting of --list: leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_calls(arguments, says, capsys):
    fails(capsys, "predict", *arguments, "--model", "m", status=2, says=says)


def test_progress_counts_lines(place, tmp_path, monkeypatch):
    shown = []

    def record(items, *, total, label):
        assert (total, label) == (14, "predict")
        for item in items:
            shown.append(item)
            yield item

    monkeypatch.setattr("nonlocalnn.cli.predict.progress", record)
    assert main(words(place, tmp_path, "--shard-size", "4", "--num-workers", "0")) == 0
    assert shown == list(range(14))
