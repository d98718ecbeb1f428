"""The benchmark of networks: every section is measured and told, and what is wrong is refused."""

import dataclasses
import json
import sys

import pytest
import torch

from benchmarks import models, models_report, networks
from benchmarks.__main__ import main
from benchmarks.networks import Work, measure_network
from nonlocalnn.blocks import nonlocal_blocks
from tolerances import near

INFERENCE = Work("nl2_c2d_tiny", training=False, num_clips=1)


def long_work():
    (name, places), form = models._QUICK.long, "embedded_gaussian"
    overrides = {"blocks": {"layer2": places}, "instantiation": form, "sub_sample": None, "zero_init": False}
    return Work(name, training=True, num_clips=1, overrides={**overrides, "norm": "frozen"})


@pytest.fixture
def no_peaks(monkeypatch):
    """Each peak takes a process of its own."""
    monkeypatch.setattr(networks, "peak_memory", lambda prepare, arguments: 2**20)


@pytest.mark.slow
def test_every_section_is_measured(tmp_path, capsys):
    assert main(["models", "--quick", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "models.json").read_text())
    works = ["inference, 1 clip", "training step, 2 clips"]
    assert [row["work"] for row in report["networks"]] == works
    assert [(row["network"], row["work"]) for row in report["torchvision"]] == [
        ("r3d_18", work) for work in works
    ]
    assert [row["form"] for row in report["long_clips"]] == ["embedded_gaussian"]
    for section, others in (
        ("networks", ["plain", "plain, channels last", "ours, bfloat16"]),
        ("long_clips", ["materialised"]),
    ):
        for row in report[section]:
            seconds = {way: timing["median"] for way, timing in row["seconds"].items()}
            assert row["ratio"] == {other: seconds[other] / seconds["ours"] for other in others}
            assert set(row["peak_bytes"]) == {"ours", others[0]}
            assert list(row["error"]) == others
            assert all(0 <= row["error"][other] < 1e-5 for other in others if "bfloat16" not in other)
    inference, training = report["torchvision"]
    for row, passes in ((inference, 1), (training, 3)):
        speed = row["clips_per_second"]["plain"]
        assert row["gflops_per_second"]["plain"] == near(passes * row["gflops"]["plain"] * speed)
        assert row["peak_bytes"]["plain"] > 0
    read = [row for row in report["decoding"] if row["backend"] == "pyav"]
    assert [row["file"] for row in read] == ["original", "shrunk"]
    assert report["absent"] == {}
    told = models_report.markdown(report)
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "models.md").read_text()
    titles = [line[3:] for line in told.splitlines() if line.startswith("## ")]
    assert titles == [
        "Beside the plain way",
        "Beside other ways",
        "Per FLOP, beside torchvision",
        "Long clips without sub-sampling",
        "Decoding",
    ]


def test_the_size_of_a_clip():
    assert Work("r2plus1d_18", training=True, num_clips=2).clip_shape == (3, 16, 112, 112)
    assert Work("c2d_r50_32x4", training=True, num_clips=2).clip_shape == (3, 32, 224, 224)
    assert Work("c2d_r50_32x4", training=True, num_clips=2, side=64).clip_shape == (3, 32, 64, 64)


def test_a_way_that_differs_is_refused(monkeypatch, no_peaks):
    prepare = networks._prepare

    def wrong(way, network, clips):
        network, clips = prepare(way, network, clips)
        return network, clips * (1.01 if way == "plain" else 1.0)

    monkeypatch.setattr(networks, "_prepare", wrong)
    with pytest.raises(ValueError, match="nl2_c2d_tiny: outputs of ours and plain differ by"):
        measure_network(INFERENCE, ("ours", "plain"), min_seconds=0.0)


def test_blocks_that_differ_are_refused(monkeypatch, no_peaks):
    average = networks.MaterialisedBlock.average
    monkeypatch.setattr(networks.MaterialisedBlock, "average", lambda *parts: 1.1 * average(*parts))
    with pytest.raises(ValueError, match="c2d_tiny: outputs of ours and materialised differ by"):
        measure_network(long_work(), ("ours", "materialised"), min_seconds=0.0, min_runs=1)


def test_materialised_replaces_the_blocks_and_nothing_else():
    network, clips = networks.make(long_work())
    names = set(nonlocal_blocks(network))
    network, _ = networks._prepare("materialised", network, clips)
    found = {
        name for name, module in network.named_modules() if isinstance(module, networks.MaterialisedBlock)
    }
    assert found == names == {"layer2.0.nl"}


def test_other_ways_give_the_same(monkeypatch, no_peaks):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(networks, "find_spec", lambda name: name == "onnxruntime")
    ways = ["ours", *models._FULL.others]
    row = measure_network(INFERENCE, ways, min_seconds=0.0, min_runs=1)
    assert list(row["seconds"]) == [way for way in ways if way != "openvino"]
    assert row["absent"] == {"openvino": "openvino is not installed"}
    assert 1e-5 < row["error"]["ours, bfloat16"] < 5e-2
    assert "| openvino is not installed |" in models_report._others([row])
    assert models._FULL.ways(training=True) == [
        "ours",
        "plain",
        "plain, channels last",
        "compiled",
        "ours, bfloat16",
    ]


def test_what_does_not_fit_in_memory_is_told(monkeypatch):
    def peak(prepare, arguments):
        if arguments["way"] == "materialised":
            raise MemoryError("memory ran out, probably")
        return 2**20

    monkeypatch.setattr(networks, "peak_memory", peak)
    row = measure_network(long_work(), ("ours", "materialised"), min_seconds=0.0, min_runs=1)
    assert set(row["seconds"]) == {"ours"}
    assert row["absent"] == {"materialised": "memory ran out, probably"}
    assert "| memory ran out, probably |" in models_report._long([row])


def test_libraries_that_are_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(models, "_QUICK", dataclasses.replace(models._QUICK, networks=(), forms=()))
    report = models.run(quick=True)
    assert set(report["absent"]) == {"torchvision", "decoding"}
    assert (
        "the comparison with torchvision needs the library 'torchvision'" in report["absent"]["torchvision"]
    )
    told = models_report.markdown(report)
    assert "##" not in told
    assert "- decoding: reading videos needs the library 'av'" in told


def test_losses_are_bold():
    timing = {"median": 0.5, "q1": 0.5, "q3": 0.5, "runs": 1}
    row = {
        "network": "some",
        "work": "inference, 1 clip",
        "clip": [3, 4, 32, 32],
        "gflops": {"ours": 1.0, "plain": 1.0},
        "seconds": {"ours": timing, "plain": timing},
        "clips_per_second": {"ours": 2.0, "plain": 2.0},
        "gflops_per_second": {"ours": 3.0, "plain": 2.0},
        "ratio": {"plain": 0.5},
        "peak_bytes": {"ours": 2**20, "plain": 2**20},
        "absent": {},
    }
    assert "| **0.50** |" in models_report._beside([row])
    assert "**" not in models_report._beside([{**row, "ratio": {"plain": 1.5}}])
    theirs = {**row, **{key: {"plain": row[key]["plain"]} for key in ("seconds", "peak_bytes", "gflops")}}
    faster, slower = ({**theirs, "gflops_per_second": {"plain": rate}} for rate in (4.0, 2.5))
    assert "| **3.00** |" in models_report._per_flop([row, faster])
    assert "**" not in models_report._per_flop([row, slower])


def test_unknown_names_and_settings_of_another_subject(capsys):
    with pytest.raises(ValueError, match="did you mean 'c2d_r50_8x8'"):
        networks.make(dataclasses.replace(INFERENCE, network="c2d_r50_8x", side=32))
    with pytest.raises(ValueError, match="did you mean 'plain'"):
        measure_network(INFERENCE, ("plan",), min_seconds=0.0)
    assert main(["models", "--dtype", "bfloat16"]) == 2
    assert "--dtype is a setting of 'ops'" in capsys.readouterr().err


def test_networks_are_the_same_at_each_call_and_leave_the_random_numbers_alone():
    state = torch.get_rng_state()
    (one, clips), (other, again) = networks.make(INFERENCE), networks.make(INFERENCE)
    assert torch.equal(clips, again)
    assert torch.equal(one.fc.weight, other.fc.weight)
    assert torch.equal(torch.get_rng_state(), state)
