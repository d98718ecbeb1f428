"""``nonlocalnn predict --list``."""

import json
import sys

import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from nonlocalnn.cli import main

FACTS = {"classes": [str(digit) for digit in range(10)], "sample_shape": [1, 28, 28]}
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
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


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
        "part_size": 1000,
        "top": 2,
        "views": None,
        "batch_size": 64,
        "precision": "fp32",
        "device": "cpu",
    }


def test_failures_are_named_and_every_rerun_says_so(place, tmp_path, capsys):
    run = words(place, tmp_path, "--num-workers", "0", "--part-size", "10", files="bad.txt")
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
    says = f"predict: {tmp_path} holds results of another run: settings --batch-size"
    fails(capsys, *words(place, tmp_path, "--batch-size", "3"), status=1, says=says)


def test_a_root(place, tmp_path):
    (tmp_path / "list.txt").write_text(NAMES[0])
    run = words(tmp_path, tmp_path / "out", "--root", place, "--num-workers", "0", files="list.txt")
    run[run.index("--model") + 1] = str(place / "model.safetensors")
    assert main(run) == 0


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"], ids=["torchrun", "srun"])
def test_several_processes_would_each_do_everything(place, tmp_path, monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "2")
    says = f"--list is done by one process, and {variable} says that 2 were started: start one, with --engine"
    fails(capsys, *words(place, tmp_path / "out"), status=1, says=says)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(variable, "1")
    assert main(words(place, tmp_path / "out", "--num-workers", "0")) == 0


def test_a_missing_ray_names_its_extra(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    run = words(place, tmp_path, "--engine", "ray", "--workers", "2")
    fails(capsys, *run, status=1, says="run pip install 'nonlocalnn[ray]'")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--workers", "2"], "workers has no effect with engine 'loop': leave it out"),
        (["--engine", "ray", "--num-workers", "3"], "--num-workers has no effect with engine 'ray'"),
    ],
    ids=["loop", "ray"],
)
def test_settings_of_the_other_engine(place, tmp_path, capsys, more, says):
    fails(capsys, *words(place, tmp_path, *more), status=1, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: inputs (or --list)"),
        (["--list", "a.txt"], "--list needs --output-folder"),
        (["a.png", "--list", "a.txt", "--output-folder", "o"], "leave out INPUT"),
        (["--list", "a.txt", "--output-folder", "o", "--output", "o.jsonl"], "leave out --output"),
        (["a.png", "--output-folder", "o"], "--output-folder is a setting of --list: leave it out"),
        (["a.png", "--part-size", "5"], "--part-size is a setting of --list: leave it out"),
        (["a.png", "--num-workers", "0"], "--num-workers is a setting of --list: leave it out"),
        (["a.png", "--root", "."], "--root is a setting of --list: leave it out"),
        (["a.png", "--engine", "ray"], "--engine is a setting of --list: leave it out"),
        (["a.png", "--workers", "2"], "--workers is a setting of --list: leave it out"),
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
    assert main(words(place, tmp_path, "--part-size", "4", "--num-workers", "0")) == 0
    assert shown == list(range(14))
