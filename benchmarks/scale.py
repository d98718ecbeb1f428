"""What a training on 8, 64 and 1,024 GPUs would take: computed from counts, measurements and assumptions.

Nothing here ran on a GPU. Operators, their FLOPs and bytes, and what the backward pass keeps are counted from
shapes; reading and recomputing are measured on this machine; everything else is assumed, and said beside the
result. The same reckoning is held against two processes of this machine, where it can be wrong.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from benchmarks import decoding, training
from benchmarks.about import about
from benchmarks.measure import peak_memory, time_call, time_together
from benchmarks.reckoning import WAYS, Assumed, plan
from benchmarks.report import conditions
from benchmarks.step_counts import count_step
from nonlocalnn.models import create_model
from nonlocalnn.models.layout import with_channels_last
from nonlocalnn.train.parallel.layout import units
from nonlocalnn.train.recompute import recompute_

MODEL, SHAPE, CLASSES = "nl5_i3d_r50_8x8", (3, 8, 224, 224), 400
NUMBERS = (8, 64, 1024)
_GIB = 2**30
_TWO = [way for way in training.WAYS if way.processes == 2]


def run(
    *,
    quick: bool = False,
    assumed: Assumed | None = None,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Count and measure the parts, and reckon an epoch from them.

    Args:
        quick: Tiny network, video and trainings: shows that everything works, and says nothing of cost.
        assumed: What is not measured; None is the defaults.
        progress: Takes a line for each part.
        save: Takes the report after each.

    Returns:
        The report, as JSON can hold it: "about"; "assumed"; "model"; "counts", see ``step_counts``;
        "reading", seconds of one core a clip; "rows", a plan for each number of GPUs and way; "recomputing"
        and "check", what this machine took and what was reckoned for it.

    Raises:
        ImportError: PyAV is missing.
    """
    assumed = Assumed() if assumed is None else assumed
    name, shape = (training.MODEL, (3, 8, 16, 16)) if quick else (MODEL, SHAPE)
    report: dict[str, Any] = {
        "about": about(device="cpu", dtype="float32", quick=quick),
        "assumed": asdict(assumed),
        "model": name,
    }
    counts = count_step(name, (int(assumed.clips_per_gpu), *shape), dtype=torch.bfloat16, classes=CLASSES)
    # Of the operators the number is enough.
    report["counts"] = asdict(counts) | {"operators": len(counts.operators)}
    progress(f"{name}: {counts.flops / 1e9 / assumed.clips_per_gpu:.0f} GFLOPs a clip and step")
    amount = decoding.QUICK if quick else decoding.FULL
    read = [row for row in decoding.measure_decoding(amount) if row["backend"] == "pyav"]
    report["reading"] = {"seconds": 2 * read[-1]["loading"]["median"], "bytes": read[-1]["bytes"]}
    progress(f"a clip takes a core {1e3 * report['reading']['seconds']:.0f} ms to read")
    report["rows"] = [
        asdict(plan(counts, report["reading"], way, number, assumed)) for number in NUMBERS for way in WAYS
    ]
    save(report)
    report["recomputing"] = _recomputing(name, shape)
    progress("measured a step here, bottlenecks kept and recomputed")
    save(report)
    report["check"] = _check(quick=quick)
    for row in report["check"]:
        progress(f"{row['way']}: {row['reckoned']:.0f} samples/s reckoned, {row['found']:.0f} found")
    save(report)
    return report


def recomputed_step(
    *, name: str, shape: tuple[int, ...], recomputes: bool
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a step of two small samples, and one of one sample, of a network on this machine."""
    torch.manual_seed(0)
    model = with_channels_last(create_model(name, num_classes=CLASSES), of_images=True).train()
    if recomputes:
        recompute_(units(model))

    def step(*sides: int) -> None:
        model(torch.randn(*sides)).sum().backward()
        model.zero_grad()

    small = (2, shape[0], shape[1], *(max(16, side // 4) for side in shape[2:]))
    return lambda: step(*small), lambda: step(1, *shape)


def _recomputing(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return seconds and peak bytes of a step here, float32, all threads, without and with recomputing."""
    given: dict[str, Any] = {
        key: {"name": name, "shape": shape, "recomputes": key == "recomputed"}
        for key in ("kept", "recomputed")
    }
    peaks = {key: peak_memory("benchmarks.scale:recomputed_step", each) for key, each in given.items()}
    timings = time_together({key: recomputed_step(**each)[1] for key, each in given.items()})
    counts = count_step(name, (1, *shape), classes=CLASSES)
    return {
        "counted": {"kept": counts.kept, "recomputed": counts.kept_recomputing},
        "peak_bytes": peaks,
        "seconds": {key: asdict(each) for key, each in timings.items()},
    }


def _check(*, quick: bool) -> list[dict[str, Any]]:
    """Return samples a second of two ranks as reckoned from one and from the exchange, and as found."""
    measured = training.run(quick=quick, ways=_TWO)["rows"]
    apart, *ranks = (statistics.median(row["samples_per_second"]) for row in measured)
    with torch.device("meta"):
        size = 4 * sum(each.numel() for each in create_model(training.MODEL).parameters())
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_sum_gradients, (folder, size), nprocs=2)  # type: ignore[attr-defined]
        exchange = json.loads((Path(folder) / "seconds.json").read_text())
    step = training.BATCH / apart
    return [
        # Three halves of an exchange, where ddp has two.
        {"way": way.name, "reckoned": training.BATCH / (step + exchange * share), "found": found}
        for way, share, found in zip(_TWO[1:], (1, 1.5), ranks, strict=True)
    ]


def _sum_gradients(rank: int, folder: str, size: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    gradients = torch.ones(size // 4)
    timing = time_call(lambda: dist.all_reduce(gradients), min_seconds=0, min_runs=50, max_runs=50)
    dist.destroy_process_group()
    if rank == 0:
        (Path(folder) / "seconds.json").write_text(json.dumps(timing.median))


def markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report."""
    assumed, counts, reading = report["assumed"], report["counts"], report["reading"]
    clips = assumed["clips_per_gpu"]
    lines = [
        conditions(report["about"]),
        "",
        f"`{report['model']}`, {clips:g} clips a GPU, bfloat16, stochastic gradient descent with momentum. "
        "**Nothing here ran on a GPU.** A step takes as long as computing, exchange that it does not hide "
        "and waiting for the slowest rank together, or as long as reading its clips, whichever is longer.",
        "",
        "| GPUs | way | clips a step | step | computing | exchange not hidden | waiting | reading | epoch "
        "| sent by a GPU and step | memory a GPU | cores a GPU that reading would need | read by all |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        cells = [
            f"{row['num_gpus']:,}",
            row["way"],
            f"{row['clips_per_step']:,}",
            *(f"{1e3 * row[key]:.3g} ms" for key in ("step", "compute", "exposed", "waiting", "reading")),
            f"{row['epoch']:.3g} s",
            _mib(row["sent"]),
            f"{row['memory'] / _GIB:.1f} GiB{' of too few' * (row['memory'] > assumed['gpu_gib'] * _GIB)}",
            f"{row['cores']:.0f}",
            f"{row['read'] / 1e9:.2f} GB/s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    here, found = report["recomputing"], report["recomputing"]["seconds"]
    lines += [
        "",
        "**Counted**, a clip of a training step: "
        f"{counts['flops'] / 1e9 / clips:.3g} GFLOPs, {counts['moved'] / 1e9 / clips:.3g} GB read and "
        f"written by {counts['operators']} operators, {_mib(counts['kept'] / clips)} kept for "
        f"the backward pass, or {_mib(counts['kept_recomputing'] / clips)} with bottlenecks "
        "recomputed; "
        f"{counts['parameters'] / 1e6:.1f} million parameters.",
        "",
        f"**Measured here**: a clip takes a core {1e3 * reading['seconds']:.3g} ms to read from a file of "
        f"{reading['bytes'] / 1e6:.3g} MB. One clip in float32, {report['about']['threads']} threads:",
        "",
        "| bottlenecks | step | peak memory above the network's | of it kept between passes, as counted |",
        "| --- | ---: | ---: | ---: |",
    ]
    for key, name in (("kept", "kept"), ("recomputed", "computed again")):
        lines.append(
            f"| {name} | {found[key]['median']:.3g} s | {_mib(here['peak_bytes'][key])} "
            f"| {_mib(here['counted'][key])} |"
        )
    lines += [
        "",
        f"**The same reckoning for two processes of this machine**, `{training.MODEL}`:",
        "",
        "| way | reckoned | found |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {row['way']} | {row['reckoned']:.0f} samples/s | {row['found']:.0f} samples/s |"
        for row in report["check"]
    ]
    lines += ["", "**Assumed**:", "", "| what | number | why |", "| --- | ---: | --- |"]
    lines += [
        f"| {each.name} | {assumed[each.name]:,} | {each.metadata['why']} |" for each in fields(Assumed)
    ]
    return "\n".join(lines)


def _mib(size: float) -> str:
    return f"{size / 2**20:.3g} MiB"
