import csv
import json
import re
import sys
import types
from dataclasses import replace

import pytest
from tiny_task import TinyTask, tiny_recipe

from nonlocalnn._progress import progress
from nonlocalnn.train import train
from nonlocalnn.train.log import progress_bar, write_log
from tolerances import near

ROWS = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]


def test_both_formats_hold_the_rows(tmp_path):
    write_log(tmp_path, ROWS)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ROWS
    with (tmp_path / "log.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in row.items()} for row in ROWS]


def test_rows_after_the_resumed_point_are_dropped(tmp_path):
    write_log(tmp_path, ROWS)
    write_log(tmp_path, ROWS[:1])
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(("show", "seen"), [(True, True), (False, False), (None, False)])
def test_bar_is_shown_when_asked_or_on_a_terminal(show, seen, capsys):
    with progress_bar(total=3, initial=1, show=show) as bar:
        bar.update(1)
        bar.set_postfix_str("loss 1")
    captured = capsys.readouterr()
    assert ("step" in captured.err) is seen
    assert captured.out == ""


class Broken:
    """A bar that was opened and then fails, as one whose terminal has gone."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name):
        raise RuntimeError("no terminal")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (None, r"no progress bar: .*nonlocalnn\[train\]"),
        (types.SimpleNamespace(), "no progress bar: cannot import"),
        (types.SimpleNamespace(tqdm=Broken), "no progress bar: no terminal"),
        (types.SimpleNamespace(tqdm=None), "no progress bar: 'NoneType'"),
    ],
    ids=["missing", "another tqdm", "fails at use", "fails at start"],
)
def test_work_goes_on_without_a_working_bar(monkeypatch, capsys, module, says):
    monkeypatch.setitem(sys.modules, "tqdm", module)
    with progress_bar(total=1, initial=0, show=True) as bar:
        bar.update(1)
        bar.set_postfix_str("loss 1")
        bar.write("epoch 1")
    lines = capsys.readouterr().err.splitlines()
    assert re.match(says, lines[0])
    assert lines[1:] == ["epoch 1"]  # said once
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(3), total=3, label="files")) == [0, 1, 2]
    assert re.match(says, capsys.readouterr().err)


def test_work_goes_on_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress(range(3), total=3, label="files")) == [0, 1, 2]
    with progress_bar(total=1, initial=0, show=None) as bar:
        bar.write("epoch 1")


def test_what_iteration_raises_is_not_the_bars(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ZeroDivisionError):
        list(progress((1 / number for number in (1, 0)), total=2, label="files"))


def test_tensorboard_shows_the_log_once(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny_recipe(tmp_path, epochs=3, tensorboard=True, schedule="constant")
    train(replace(recipe, epochs=2), task=TinyTask())
    train(recipe, task=TinyTask(), resume=True)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag, name in (
        ("loss/train", "train_loss"),
        ("accuracy/validation", "validation_accuracy"),
        ("run/lr", "lr"),
    ):
        found = [(each.step, each.value) for each in events.Scalars(tag)]
        assert [step for step, _ in found] == [row["step"] for row in rows] == [6, 12, 18]
        assert [value for _, value in found] == near([row[name] for row in rows])
    assert not (tmp_path / "tensorboard.new").exists()


def test_without_tensorboard_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"logs for TensorBoard.*nonlocalnn\[tensorboard\]"):
        train(tiny_recipe(tmp_path / "run", tensorboard=True), task=TinyTask())
    assert not (tmp_path / "run" / "log.csv").exists()
