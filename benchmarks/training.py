"""Training on one process and on several of one machine: samples a second, and what the exchange costs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.about import about

BATCH, MODEL = 32, "nl2_c2d_tiny"
_REPEATS = 3


@dataclass(frozen=True)
class Way:
    """How many processes train, and what they share.

    Args:
        name: What tables call it.
        processes: How many.
        threads: Of each.
        parallel: How one network lies on all of them; None has each train a network of its own, on its share
            of the batch, and exchange nothing.
    """

    name: str
    processes: int
    threads: int
    parallel: str | None


WAYS = (
    Way("one process, 1 thread", 1, 1, "ddp"),
    Way("one process, 2 threads", 1, 2, "ddp"),
    Way("two processes, nothing exchanged", 2, 1, None),
    Way("two ranks, ddp", 2, 1, "ddp"),
    Way("two ranks, fsdp", 2, 1, "fsdp"),
)


def run(
    *,
    quick: bool = False,
    ways: Sequence[Way] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Train with ``nonlocalnn train``, in each way in turn, and take the speed from its log.

    Two processes that exchange nothing are what this machine can do at most with two: what is lost from twice
    one process to these is lost to memory and caches that they share, and what is lost from there to ranks of
    one training to the exchange.

    Args:
        quick: Tiny images: shows that everything works, and says nothing of speed.
        ways: Which; None is all of ``WAYS``.
        progress: Takes a line for each training.
        save: Takes the report after each.

    Returns:
        The report, as JSON can hold it: "about"; "words", the flags of the trainings; and "rows": way,
        processes, threads, and "samples_per_second" of all processes together, one for each repeat.

    Raises:
        RuntimeError: A training failed; with the last lines that it wrote.
    """
    ways = WAYS if ways is None else ways
    words = ["--data", "cue", "--model", MODEL, "--epochs", "2"]
    if quick:
        words = ["--data", "digits", "--image-size", "8", "--epochs", "2"]
    rows: list[dict[str, Any]] = [
        {"way": way.name, "processes": way.processes, "threads": way.threads, "samples_per_second": []}
        for way in ways
    ]
    report = {"about": about(device="cpu", dtype="float32", quick=quick), "words": words, "rows": rows}
    # Each way in turn, so that what slows a machine for a while does not fall on one of them.
    for seed in range(1 if quick else _REPEATS):
        for way, row in zip(ways, rows, strict=True):
            speed = speed_of(way, [*words, "--seed", str(seed)])
            row["samples_per_second"].append(speed)
            progress(f"{way.name}, seed {seed}: {speed:.1f} samples/s")
            save(report)
    return report


def speed_of(way: Way, words: Sequence[str]) -> float:
    """Return samples a second over all processes, of all epochs but the first."""
    alone = way.parallel is None
    runs = way.processes if alone else 1
    batch = BATCH // runs
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(number) for number in range(runs)]
        started = [
            _started(way, [*words, "--batch-size", str(batch), "--output", str(output)]) for output in outputs
        ]
        for process in started:
            _, said = process.communicate()
            if process.returncode:
                raise RuntimeError(f"training as {way.name!r} failed:\n{said[-2000:]}")
        return sum(_logged_speed(output / "log.jsonl") for output in outputs)


def _started(way: Way, words: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m"]
    if way.parallel is not None:
        words = [*words, "--parallel", way.parallel]
    if way.parallel is not None and way.processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(way.processes), "-m"]
    return subprocess.Popen(
        [*command, "nonlocalnn", "train", "--device", "cpu", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(way.threads)},
    )


def _logged_speed(log: Path) -> float:
    _, *rows = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    # Each row has the samples a second of its own steps.
    samples = sum(row["samples_per_second"] * row["seconds"] for row in rows)
    return float(samples / sum(row["seconds"] for row in rows))


def markdown(report: Mapping[str, Any]) -> str:
    """Return the table of a report."""
    rows = report["rows"]
    first = statistics.median(rows[0]["samples_per_second"])
    lines = [
        f"`nonlocalnn train {' '.join(report['words'])}`, {BATCH} samples a step over all processes; "
        f"{len(rows[0]['samples_per_second'])} trainings each, median and range:",
        "",
        "| way | samples/s | against the first |",
        "| --- | ---: | ---: |",
    ]
    for row in rows:
        speeds = row["samples_per_second"]
        median = statistics.median(speeds)
        lines.append(
            f"| {row['way']} | {median:.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | {median / first:.2f} |"
        )
    return "\n".join(lines)
