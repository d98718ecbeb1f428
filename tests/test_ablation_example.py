"""The program that makes the figures of docs/guides/choosing.md again: each command is one that exists."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.ablation import command
from benchmarks.ablation.runs import plan

ROOT = Path(__file__).parents[1]
DATA = ["--mnist", "m", "--fashion", "f", "--photographs", "p", "--sequences", "s", "--volumes", "v"]


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import ablation

    return ablation


@pytest.fixture
def called(ablation, monkeypatch, tmp_path):
    """Return the list of what the program runs; a status other than 0 may be put into ``statuses``."""
    words, statuses = [], {}

    def run(arguments, check):
        words.append(arguments[1:])
        return SimpleNamespace(returncode=statuses.get(len(words), 0))

    monkeypatch.setattr(ablation.subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    return words, statuses


def test_every_page_that_the_choice_links_to_is_made(ablation):
    choice = (ROOT / "docs/guides/choosing.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\.\./results/([\w-]+)\.md", choice))
    assert linked
    assert linked == {step.page for step in ablation.STEPS}


def test_every_command_is_understood(ablation, called, monkeypatch):
    assert ablation.main(["--output", "out", *DATA]) == 0
    words, _ = called
    assert len(words) == len(ablation.STEPS)
    planned = []

    def train(recipe, table, seeds):
        planned.extend(plan(recipe, table=table, num_seeds=seeds))
        return []

    monkeypatch.setattr(command, "_train", train)
    for name in ("_write", "markdown"):
        monkeypatch.setattr(command, name, lambda *_: "")
    for program, *rest in words:
        if program.startswith("examples/"):
            assert (ROOT / program).is_file()
        elif rest[1] == "ablation":
            planned.clear()
            # timm need not be there.
            known = ["torchvision/resnet18" if word.startswith("timm/") else word for word in rest[1:]]
            assert benchmarks.main(known) == 0
            assert planned
            assert all(str(recipe.output).startswith("out/") for _, recipe in planned)
        else:
            assert str(benchmarks._parse(rest[1:]).output).startswith("out/")


def test_what_lacks_data_is_left_out_and_told(ablation, called, capsys):
    assert ablation.main(["--only", "digits", "volumes"]) == 0
    words, _ = called
    assert [any("mnist" in word for word in each) for each in words] == [False, False]
    told = capsys.readouterr().out
    assert "left out, digits: python -m benchmarks ablation" in told
    assert "left out, volumes" in told
    assert "(--volumes names no folder)" in told


def test_a_command_that_fails_ends_it(ablation, called, capsys):
    words, statuses = called
    statuses[2] = 3
    assert ablation.main(["--only", "digits", *DATA]) == 1
    assert len(words) == 2
    assert "digits: failed" in capsys.readouterr().out


def test_it_names_the_runs_that_are_there(ablation, called, tmp_path):
    names = (
        "width-16/seed-41",
        "instantiation-gaussian-width-16/seed-43",
        "instantiation-concatenation-width-16/seed-62",
        "instantiation-concatenation-width-16/seed-41",
        "width-16/seed-44",
        "extent-time-width-16/seed-41",
    )
    runs = [tmp_path / "[a] folder/cue" / f"nl2_c2d_tiny-{name}" for name in names]
    for run in runs:
        run.mkdir(parents=True)
    assert ablation.main(["--only", "maps", "--output", str(tmp_path / "[a] folder")]) == 0
    assert called[0] == [
        ["examples/attended_cue.py", "--output", str(tmp_path / "[a] folder/maps.json"), *map(str, runs[:3])]
    ]


def test_the_list_runs_nothing(ablation, called, capsys):
    assert ablation.main(["--list", "--only", "ops"]) == 0
    assert called[0] == []
    assert capsys.readouterr().out.split()[1:5] == ["min", "ops", "python", "-m"]
