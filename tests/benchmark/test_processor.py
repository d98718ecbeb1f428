"""One processor with each of its instruction sets: a process for each setting, and one page of all."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import processor
from benchmarks.__main__ import main


def row(form, ours, **others):
    return {
        "form": form,
        "shape": [1, 4, 10],
        "queries": 10,
        "keys": 10,
        "direction": "forward",
        "logits": 1.0,
        "seconds": {"ours": {"median": ours}},
        "ratio": {name: other / ours for name, other in others.items()},
    }


def measured(instructions, threads, *rows):
    about = {
        "date": "2000-01-01",
        "commit": None,
        "versions": {"torch": "2"},
        "processor": "abacus",
        "instructions": instructions,
        "threads": threads,
        "device": "cpu",
        "dtype": "float32",
        "quick": False,
    }
    return {"about": about, "grid": list(rows), "operator": []}


@pytest.fixture
def wide(monkeypatch):
    """A processor of two cores with AVX-512, on which nothing is measured."""
    monkeypatch.setattr(processor.torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(processor.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(processor, "about", lambda **_: {})


def test_each_setting_has_a_process_and_a_folder_of_its_own(wide, monkeypatch, tmp_path):
    called = []

    def run(words, *, env, **_):
        instructions, threads = env.get("ATEN_CPU_CAPABILITY", "avx512").upper(), int(env["OMP_NUM_THREADS"])
        called.append((instructions, threads, env.get("MKL_ENABLE_INSTRUCTIONS")))
        folder = Path(words[-1])
        folder.mkdir()
        (folder / "ops.json").write_text(json.dumps(measured(instructions, threads, row("gaussian", 0.002))))
        assert words[-3] == "--core"
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(processor.subprocess, "run", run)
    saved = []
    report = processor.run(output=tmp_path, save=lambda found: saved.append(list(found["settings"])))
    assert called == [("AVX512", 1, None), ("AVX512", 2, None), ("AVX2", 1, "AVX2"), ("AVX2", 2, "AVX2")]
    assert list(report["settings"]) == saved[-1]
    assert saved[-1] == ["AVX512, 1 thread", "AVX512, 2 threads", "AVX2, 1 thread", "AVX2, 2 threads"]
    assert [len(names) for names in saved] == [1, 2, 3, 4]


def test_a_failed_measurement_is_told(wide, monkeypatch, tmp_path):
    monkeypatch.setattr(processor.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(ValueError, match="the measurement failed, see above: threads 1, limits none"):
        processor.run(output=tmp_path)


def test_losses_are_counted_and_bold():
    won = row("gaussian", 0.002, mmcv=0.004, sdpa=0.003, floor=0.001)
    slowed = row("dot_product", 0.004, mmcv=0.003, **{"ours compiled": 0.006})
    report = {"settings": {"AVX2, 1 thread": measured("AVX2", 1, won, slowed)}}
    text = processor.markdown(report)
    assert "| AVX2, 1 thread | 2 | 1 | 1 | 0.75 |" in text
    assert "| gaussian | 1 x 4 x 10 | 10 | 1 | forward | 2.00, 1.50 sdpa |" in text
    assert "| 4.00, **0.75 mmcv** |" in text
    assert "Under `torch.compile` ours is slower in 1 cells" in text
    assert "1.50 of its time" in text


@pytest.mark.slow
def test_the_command_measures_and_writes(tmp_path, capsys):
    assert main(["processor", "--quick", "--output", str(tmp_path)]) == 0
    assert "1 thread" in capsys.readouterr().out
    assert (tmp_path / "processor.md").read_text().startswith("# The blocks on one processor")
    assert json.loads((tmp_path / "processor.json").read_text())["settings"]
