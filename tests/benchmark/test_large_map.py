"""The benchmark of a block over a whole image's map."""

import pytest
import torch

from benchmarks import large_map


def test_a_quick_run_makes_a_table(monkeypatch):
    # Fresh processes take seconds each; what they measure has tests of its own.
    monkeypatch.setattr(large_map, "peak_memory", lambda _, work: 2**20 * len(work["way"]))
    saved = []
    report = large_map.run(quick=True, save=lambda found: saved.append(len(found["rows"])))
    assert saved == [1, 2, 3, 4, 5, 6]
    assert (report["positions"], report["sides"]) == (128, [8, 16])
    first, *_, last = report["rows"]
    assert (first["way"], first["affinity_bytes"], first["peak_bytes"]) == ("ours", 0, 4 * 2**20)
    # So small a map is measured in the materialised form too.
    assert (last["way"], last["work"], last["affinity_bytes"]) == ("materialised", "training", 3 * 4 * 128**2)
    assert last["seconds"]["median"] > 0
    lines = large_map.markdown(report).splitlines()
    assert lines[0].startswith("Over all 128 positions of the map the block takes 4 MiB in a test, where")
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][2:] == [
        "| ours", "| PyTorch's fused attention", "| materialised"
    ]  # fmt: skip


def test_what_is_too_large_is_said_and_not_run():
    row = {"affinity_bytes": 2 * 4 * 32768**2}
    assert large_map._cell(row) == "not run: 8,192 MiB for the affinity alone"


def test_another_result_is_not_timed(monkeypatch):
    class Wrong(large_map.PlainAttentionBlock):
        def forward(self, x):
            return 1.1 * super().forward(x)

    monkeypatch.setattr(large_map, "PlainAttentionBlock", Wrong)
    monkeypatch.setattr(large_map, "time_together", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(ValueError, match=r"the ways of a test must give the same; they are 0\.1 apart"):
        large_map.run(quick=True)


def test_the_peak_is_of_the_whole_map(monkeypatch):
    seen = []
    monkeypatch.setattr(large_map, "_passes", lambda way, work, sides: seen.append((way, work, sides)))
    large_map.prepare("ours", "test", [128, 256])
    assert seen == [("ours", "test", (4, 8)), ("ours", "test", (128, 256))]
    assert torch.Size(large_map._FULL).numel() == 32768
