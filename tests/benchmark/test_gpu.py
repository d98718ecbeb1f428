"""The GPU's benchmark, as far as a CPU shows it."""

import json

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.baselines import FlexBlock
from helpers import randomize_
from nonlocalnn import NonLocal2d
from tolerances import assert_near


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_gpu_is_told(tmp_path, capsys):
    assert main(["gpu", "--output", str(tmp_path)]) == 2
    assert "this machine has none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_from_end_to_end(tmp_path, capsys):
    assert main(["gpu", "--device", "cpu", "--quick", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [check for check in report["checks"] if not check["outcome"].startswith("right")] == []
    assert len(report["checks"]) == 4 * 2 * 2 * 2
    assert {row["outcome"] for row in report["deterministic"]} == {"the same bits"}
    assert {(row["dtype"], row["logits"]) for row in report["grid"]} == {
        (dtype, logits) for dtype in ("float32", "bfloat16") for logits in (1.0, 30.0)
    }
    text = (tmp_path / "gpu.md").read_text()
    assert "32 of 32 checks are right." in text
    assert "## bfloat16" in text
    assert "results in" in capsys.readouterr().out


def test_a_wrong_engine_is_seen(monkeypatch):
    right = gpu.non_local
    monkeypatch.setattr(
        gpu,
        "non_local",
        lambda *parts, engine, **named: (
            right(*parts, engine=engine, **named) * (1.1 if engine == "fused" else 1)
        ),
    )
    outcomes = {(check["engine"], check["outcome"][:5]) for check in gpu._checks("cpu", quick=True)}
    assert outcomes == {("fused", "WRONG"), ("auto", "right")}


def test_what_is_not_reached_is_counted(monkeypatch):
    monkeypatch.setattr(gpu, "_SECONDS", 0.0)
    report = gpu.run(quick=True, device="cpu")
    assert report["grid"] == []
    assert report["left_out"] == 24
    assert "24 rows were not reached" in gpu.markdown(report)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.slow
def test_flex_attention_equals_our_block():
    block = randomize_(NonLocal2d(32, instantiation="embedded_gaussian", sub_sample="after")).eval()
    x = torch.randn(1, 32, 6, 4)
    with torch.no_grad():
        assert_near(FlexBlock(block)(x), block(x))
