"""Epochs on many GPUs: counts against numbers worked out by hand, and what follows from them."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from benchmarks import scale, step_counts, training
from benchmarks.__main__ import main
from benchmarks.reckoning import WAYS, Assumed, half_exchange, plan, slowest_of
from benchmarks.step_counts import StepCounts, count_step
from nonlocalnn.models import create_model
from tolerances import near

# One of 6 microseconds by its bytes, one of 10 by its FLOPs that is run twice, one of 2 by its start.
SPEEDS = Assumed(
    clips=1000,
    clips_per_gpu=5,
    peak_tflops=1,
    peak_used=0.5,
    memory_tbytes=1,
    memory_used=0.5,
    launch_us=2,
    gpus_per_node=4,
    node_gbytes=4,
    net_gbytes=1,
    hop_us=3,
    overlap=0.5,
    jitter=0.1,
    cores_per_gpu=2,
    workspace_gib=0,
)
COUNTS = StepCounts(
    parameters=1_000,
    units=2,
    flops=5_000_001,
    moved=3_000_002,
    kept=700,
    kept_recomputing=400,
    operators=((0, 3_000_000, False), (5_000_000, 1, True), (1, 1, False)),
)
READING = {"seconds": 1e-6, "bytes": 10.0}


def test_two_layers_by_hand(monkeypatch):
    def create(name, num_classes):
        assert (name, num_classes) == ("two layers", 5)
        return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, num_classes, bias=False))

    monkeypatch.setattr(step_counts, "create_model", create)
    counts = count_step("two layers", (2, 3), classes=5)
    # Forward 2 x 2 (3 x 4 + 4 x 5), backward the same for the weights, and for the second layer's input.
    assert (counts.parameters, counts.units, counts.flops) == (32, 2, 2 * 128 + 80)
    # 2 x 3 and 2 x 4 numbers; again, both inputs and the inside of the larger one.
    assert (counts.kept, counts.kept_recomputing) == (56, 56 + 32)
    products = [moved for flops, moved, _ in counts.operators if flops]
    assert products[:2] == [4 * (6 + 12 + 8), 4 * (8 + 20 + 10)]
    assert [repeated for flops, _, repeated in counts.operators if flops] == [True, True, False, False, False]
    assert counts.moved == sum(moved for _, moved, _ in counts.operators)


@pytest.mark.parametrize("name", ["c2d_tiny", "nl2_c2d_tiny"])
def test_what_is_kept_is_what_a_real_step_keeps(name):
    kept = {}
    model = create_model(name, num_classes=7).train()
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(2, 3, 8, 16, 16)).sum()
    found = sum(each.untyped_storage().nbytes() for each in kept.values())
    counted = count_step(name, (2, 3, 8, 16, 16), classes=7)
    # Blocks keep less where a processor has engines of ours for them.
    assert counted.kept == (found if name == "c2d_tiny" else pytest.approx(found, rel=0.35))
    assert counted.kept_recomputing < counted.kept


def test_counts_grow_with_the_batch_and_halve_with_the_dtype():
    one, two = (count_step("nl2_c2d_tiny", (number, 3, 8, 16, 16)) for number in (2, 4))
    half = count_step("nl2_c2d_tiny", (2, 3, 8, 16, 16), dtype=torch.bfloat16)
    assert (two.flops, two.parameters) == (2 * one.flops, one.parameters)
    assert two.kept == pytest.approx(2 * one.kept, rel=0.02)
    assert half.flops == one.flops
    assert 0.5 * one.kept < half.kept < 0.7 * one.kept


def test_an_exchange_goes_within_machines_and_then_between_them():
    # 3 of 4 parts at 4 GB/s, one of two halves of a quarter at 1 GB/s, and three hops for each of two calls.
    seconds, sent = half_exchange(8_000, 2, 8, SPEEDS)
    assert (seconds, sent) == (near(6_000 / 4e9 + 1_000 / 1e9 + 18e-6), near(7_000))
    assert half_exchange(8_000, 2, 2, SPEEDS) == (near(4_000 / 4e9 + 6e-6), near(4_000))
    assert half_exchange(8_000, 2, 1, SPEEDS) == (0, 0)


@pytest.mark.parametrize(("number", "deviations"), [(1, 0), (8, 1.42), (64, 2.34), (1024, 3.22)])
def test_the_slowest_of_many(number, deviations):
    drawn = torch.randn(2000, number, generator=torch.Generator().manual_seed(0)).amax(1).mean()
    assert slowest_of(number) == pytest.approx(deviations, abs=0.03)
    assert slowest_of(number) == pytest.approx(float(drawn), abs=0.06)


def test_a_plan_by_hand():
    found = plan(COUNTS, READING, "ddp", 8, SPEEDS)
    compute = 6e-6 + 10e-6 + 2e-6
    exchange = 2 * (3_000 / 4e9 + 500 / 1e9 + 9e-6)
    waiting = 0.1 * compute * slowest_of(8)
    assert (found.clips_per_step, found.compute, found.waiting) == (40, near(compute), near(waiting))
    assert (found.exchange, found.exposed) == (near(exchange), near(exchange - compute / 2))
    assert found.step == near(compute + exchange - compute / 2 + waiting)
    assert found.epoch == near(25 * found.step)
    assert (found.sent, found.memory) == (near(2 * 3_500), 12_000 + 700)
    assert (found.cores, found.read) == (near(5e-6 / found.step), near(400 / found.step))


def test_what_recomputing_and_shards_change():
    plain, again, shards = (plan(COUNTS, READING, way, 8, SPEEDS) for way in WAYS)
    assert (again.compute - plain.compute, again.memory) == (near(10e-6), 12_000 + 400)
    # Weights twice in half precision and gradients once in float32 are as many bytes, in more calls.
    assert (shards.sent, shards.memory) == (near(plain.sent), 1_500 + 700)
    assert shards.exchange - plain.exchange == near((3 * 2 - 2) * 9e-6)


def test_a_step_is_no_shorter_than_reading_its_clips():
    slow = plan(COUNTS, {"seconds": 1e-3, "bytes": 10.0}, "ddp", 8, SPEEDS)
    fast = plan(COUNTS, READING, "ddp", 8, SPEEDS)
    assert slow.step == slow.reading == near(5e-3 / 2)
    # So many cores would do.
    cores = dataclasses.replace(SPEEDS, cores_per_gpu=slow.cores)
    assert plan(COUNTS, {"seconds": 1e-3, "bytes": 10.0}, "ddp", 8, cores).step == near(fast.step)


def test_assumptions_are_given_by_name(capsys):
    for word in ("colour=3", "clips", "clips=many"):
        assert main(["scale", "--assume", word]) == 2
        said = capsys.readouterr().err
        assert f"'{word}' is no NAME=NUMBER" in said
        assert "net_gbytes" in said
    assert main(["maps", "--assume", "clips=3"]) == 2
    assert "--assume is a setting of 'scale'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "is_to_be"),
    [
        ("clips_per_gpu", 0, "a whole number of at least 1"),
        ("clips", 2.5, "a whole number of at least 1"),
        ("net_gbytes", 0, "above 0"),
        ("net_gbytes", float("inf"), "above 0"),
        ("net_gbytes", float("nan"), "above 0"),
        ("peak_used", 0, "above 0 and at most 1"),
        ("peak_used", 1.7, "above 0 and at most 1"),
        ("overlap", 1.7, "from 0 to 1"),
        ("hop_us", -1, "at least 0"),
    ],
)
def test_assumptions_out_of_range(name, value, is_to_be):
    with pytest.raises(ValueError, match=rf"{name} must be {is_to_be}; got {value:g}"):
        Assumed(**{name: value})


@pytest.mark.parametrize(
    "settings", [{"overlap": 0, "jitter": 0, "launch_us": 0}, {"peak_used": 1, "overlap": 1}]
)
def test_assumptions_at_the_ends_of_their_ranges(settings):
    assert plan(COUNTS, READING, "ddp", 64, dataclasses.replace(SPEEDS, **settings)).step > 0


def test_the_command_writes_a_plan(monkeypatch, tmp_path, capsys):
    speeds = {way.name: 100.0 / (number + 1) for number, way in enumerate(scale._TWO)}
    monkeypatch.setattr(training, "speed_of", lambda way, words: speeds[way.name])
    assert main(["scale", "--quick", "--assume", "gpu_gib=1", "net_gbytes=7", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "scale.json").read_text())
    assert (report["assumed"]["net_gbytes"], report["model"]) == (7, "nl2_c2d_tiny")
    assert [(row["num_gpus"], row["way"]) for row in report["rows"]] == [
        (number, way) for number in (8, 64, 1024) for way in WAYS
    ]
    ddp, fsdp = report["check"]
    assert (ddp["found"], fsdp["found"]) == (50, near(100 / 3))
    assert 50 < fsdp["reckoned"] < ddp["reckoned"] < 100
    table = capsys.readouterr().out
    assert table.count("GiB of too few") == 9
    assert "| net_gbytes | 7.0 | GB a second" in table
    assert table.split("results in")[0].strip() in (tmp_path / "scale.md").read_text()
