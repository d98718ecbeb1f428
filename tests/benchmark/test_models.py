"""The benchmark of networks: both ways measured, and a wrong one refused."""

import json

import pytest

from nonlocalnn.benchmark import models
from nonlocalnn.cli import main


def test_both_ways_are_measured(tmp_path, capsys):
    assert main(["bench", "models", "--quick", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "models.json").read_text())
    assert [row["work"] for row in report["rows"]] == ["inference, 1 clip", "training step, 2 clips"]
    for row in report["rows"]:
        seconds = {way: timing["median"] for way, timing in row["seconds"].items()}
        assert row["ratio"] == seconds["plain"] / seconds["ours"]
        assert 0 <= row["error"] < 1e-4
        assert row["gflops"] > 0
    assert models.markdown(report) in capsys.readouterr().out
    assert models.markdown(report) in (tmp_path / "models.md").read_text()


def test_a_way_that_differs_is_refused(monkeypatch):
    prepare = models._prepare

    def wrong(way, network, clips):
        network, clips = prepare(way, network, clips)
        return network, clips * (1.01 if way == "ours" else 1.0)

    monkeypatch.setattr(models, "_prepare", wrong)
    with pytest.raises(ValueError, match=r"nl2_c2d_tiny: outputs in the two ways differ by"):
        models.run(("nl2_c2d_tiny",), side=32, min_seconds=0.0)


def test_unknown_networks_and_settings_of_another_subject(capsys):
    with pytest.raises(ValueError, match="did you mean 'c2d_r50_8x8'"):
        models.run(("c2d_r50_8x",))
    assert main(["bench", "models", "--dtype", "bfloat16"]) == 2
    assert "--dtype is a setting of 'ops'" in capsys.readouterr().err
