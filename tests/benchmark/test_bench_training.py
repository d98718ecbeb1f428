"""Trainings in several ways: started and read at a tiny size, and what their table says."""

import json
from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.__main__ import main
from benchmarks.training import Way
from tolerances import near


@pytest.mark.slow
def test_ranks_train_and_the_results_are_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "WAYS", (Way("two ranks, ddp", 2, 1, "ddp"),))
    assert main(["training", "--quick", "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert (row["way"], row["processes"], len(row["samples_per_second"])) == ("two ranks, ddp", 2, 1)
    table = capsys.readouterr().out.split("results in")[0].strip()
    assert table in (tmp_path / "training.md").read_text()


def test_processes_that_exchange_nothing_have_a_share_of_the_batch_each(monkeypatch):
    class Ended:
        returncode = 0

        def communicate(self):
            return None, ""

    def started(way, words):
        given = dict(zip(words[::2], words[1::2], strict=True))
        batches.append(given["--batch-size"])
        output = Path(given["--output"])
        output.mkdir()
        row = json.dumps({"samples_per_second": 50, "seconds": 1})
        (output / "log.jsonl").write_text(f"{row}\n{row}\n")
        return Ended()

    batches = []
    monkeypatch.setattr(training, "_started", started)
    assert training.speed_of(Way("apart", 2, 1, None), ["--seed", "3"]) == 100
    assert batches == ["16", "16"]
    batches.clear()
    assert training.speed_of(Way("ranks", 2, 1, "fsdp"), ["--seed", "3"]) == 50
    assert batches == ["32"]


def test_speed_leaves_out_the_first_epoch(tmp_path):
    rows = [(100, 1.0), (200, 2.0), (400, 1.0)]
    text = "".join(json.dumps({"samples_per_second": speed, "seconds": time}) + "\n" for speed, time in rows)
    (tmp_path / "log.jsonl").write_text(text)
    assert training._logged_speed(tmp_path / "log.jsonl") == near(800 / 3)


def test_table_has_median_range_and_ratio():
    rows = [
        {"way": "one", "samples_per_second": [90, 100, 120]},
        {"way": "two", "samples_per_second": [150, 170, 140]},
    ]
    table = training.markdown({"words": ["--data", "cue"], "rows": rows})
    assert "| one | 100 (90 to 120) | 1.00 |" in table
    assert "| two | 150 (140 to 170) | 1.50 |" in table


@pytest.mark.slow
def test_a_training_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"training as .one. failed:[\s\S]*epochz"):
        training.speed_of(Way("one", 1, 1, "ddp"), ["--epochz", "2"])
