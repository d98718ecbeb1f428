"""Rows of large maps and positions over ranks: measured at a tiny size, and what their tables say."""

import json

import pytest

from benchmarks import maps, ranks
from benchmarks.__main__ import main
from nonlocalnn.functional import INSTANTIATIONS


def test_rows_of_maps(monkeypatch):
    monkeypatch.setattr(maps, "peak_memory", lambda prepare, arguments: 3 * 2**20)
    saved, lines = [], []
    report = maps.run(quick=True, save=lambda report: saved.append(json.dumps(report)), progress=lines.append)
    assert [row["form"] for row in report["rows"]] == list(INSTANTIATIONS)
    assert len(saved) == 4
    assert len(lines) == 16
    row = report["rows"][0]
    assert (row["num_queries"], row["num_keys"], row["map_bytes"]) == (1024, 256, 4 * 1024 * 256)
    assert all(task["seconds"] > 0 for task in row["tasks"])
    table = maps.markdown(report)
    assert "1,024 queries, 256 keys" in table
    assert table.count("3 MiB") == 16


def test_each_task_runs_in_a_process_of_its_own():
    warm, work = maps.prepare("dot_product", 16, "100 rows")
    assert warm().shape == (1, 100, 4, 4)
    assert work().shape == (1, 100, 8, 8)


@pytest.mark.slow
def test_ranks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ranks, "INSTANTIATIONS", ("dot_product",))
    assert main(["ranks", "--quick", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "ranks.json").read_text())
    assert [row["num_ranks"] for row in report["rows"]] == [1, 2, 4]
    for row in report["rows"]:
        assert len(row["seconds"]) == len(row["peak_bytes"]) == row["num_ranks"]
    # D x E numbers, each sent once and returned once, in both passes, but for one's own half.
    assert report["rows"][1]["bytes_sent"] == 4 * 4 * 32 * 32 // 2
    table = capsys.readouterr().out
    assert "| dot_product | 4 |" in table
    assert "| 1,000 |" in table
    assert table.split("results in")[0].strip() in (tmp_path / "ranks.md").read_text()
