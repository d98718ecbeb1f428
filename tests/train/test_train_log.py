import csv
import json
import sys

import pytest

from nonlocalnn.train.log import progress_bar, write_log

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


def test_bar_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with (
        pytest.raises(ImportError, match=r"nonlocalnn\[train\]"),
        progress_bar(total=1, initial=0, show=True),
    ):
        pass
