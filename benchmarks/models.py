"""Whole video networks and the clips that they are fed with: speed and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import decoding
from benchmarks.about import about
from benchmarks.networks import TORCHVISION, Work, measure_network
from benchmarks.rows import Row
from nonlocalnn.functional import INSTANTIATIONS

SECTIONS = ("networks", "torchvision", "long_clips", "decoding")


@dataclass(frozen=True)
class _Amount:
    """What is measured.

    Args:
        networks: Ours, beside the plain way.
        torchvision: torchvision's, at their own size.
        side: Height and width of the clips, in pixels; None is each network's own.
        long: A network that keeps a whole map of ``layer2`` in one group, and where in it blocks stand.
        forms: Instantiations of those blocks.
        min_seconds: For how long each way is run at least, in seconds.
        decoding: How much is read.
        others: Ways to run our networks beside the plain one; engines for inference only take no training.
    """

    networks: Sequence[str]
    torchvision: Sequence[str]
    side: int | None
    long: tuple[str, Sequence[int]]
    forms: Sequence[str]
    min_seconds: float
    decoding: decoding.Amount
    others: Sequence[str] = ()

    def ways(self, *, training: bool) -> list[str]:
        """Return the ways in which our networks are measured."""
        engines = ("onnxruntime", "openvino") if training else ()
        return ["ours", "plain", *(way for way in self.others if way not in engines)]


_FULL = _Amount(
    ("nl5_i3d_r50_8x8", "c2d_r50_8x8"),
    TORCHVISION,
    None,
    ("c2d_r50_32x4", (1, 3)),
    INSTANTIATIONS,
    10.0,
    decoding.FULL,
    ("plain, channels last", "compiled", "onnxruntime", "openvino", "ours, bfloat16"),
)
_QUICK = _Amount(
    ("nl2_c2d_tiny",),
    TORCHVISION[:1],
    32,
    ("c2d_tiny", (0,)),
    ("embedded_gaussian",),
    0.0,
    decoding.QUICK,
    ("plain, channels last", "ours, bfloat16"),
)


def run(
    *,
    quick: bool = False,
    sections: Sequence[str] = SECTIONS,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measure networks, inference and training, and the decoding of clips for them, on the CPU.

    Args:
        quick: Tiny shapes and few runs: shows that everything works, and says nothing of speed.
        sections: What is measured, of ``SECTIONS``; the others have no rows.
        progress: Takes a line for each row.
        save: Takes the report after each row.

    Returns:
        The report, as JSON can hold it: "about"; the rows of
        :func:`benchmarks.networks.measure_network` in "networks", ours beside the plain way, in
        "torchvision", its networks, and in "long_clips", a training step without sub-sampling beside
        materialised blocks; the rows of :func:`benchmarks.decoding.measure_decoding` in
        "decoding"; and in "absent" by section what is missing where a library is not installed.

    Raises:
        ValueError: Two ways to compute the same differ.
    """
    amount = _QUICK if quick else _FULL
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick)}
    measured: dict[str, Iterator[Row]] = {
        "networks": _network_rows(amount),
        "torchvision": _torchvision_rows(amount),
        "long_clips": _long_rows(amount),
        "decoding": decoding.measure_decoding(amount.decoding),
    }
    report |= {**{section: [] for section in SECTIONS}, "absent": {}}
    for section in sections:
        try:
            for row in measured[section]:
                report[section].append(row)
                progress(f"{section}: {describe(row)}")
                save(report)
        except ImportError as missing:
            report["absent"][section] = str(missing)
    save(report)
    return report


def describe(row: Row) -> str:
    """Return a row in one line, for progress."""
    if "backend" in row:
        figures = row.get("absent") or f"{row['frames_per_second']:.0f} frames a second"
        return f"{row['file']} file, {row['backend']}: {figures}"
    times = ", ".join(f"{way} {timing['median']:.3g} s" for way, timing in row["seconds"].items())
    form = "" if row["form"] is None else f" {row['form']}"
    return f"{row['network']}{form}, {row['work']}: {times}"


def _network_rows(amount: _Amount) -> Iterator[Row]:
    for network in amount.networks:
        for training in (False, True):
            work = Work(network, training, num_clips=2 if training else 1, side=amount.side)
            yield measure_network(work, amount.ways(training=training), min_seconds=amount.min_seconds)


def _torchvision_rows(amount: _Amount) -> Iterator[Row]:
    for network in amount.torchvision:
        for training in (False, True):
            work = Work(network, training, num_clips=2 if training else 1, side=amount.side)
            yield measure_network(work, ("plain",), min_seconds=amount.min_seconds)


def _long_rows(amount: _Amount) -> Iterator[Row]:
    network, places = amount.long
    for form in amount.forms:
        overrides = {
            "blocks": {"layer2": list(places)},
            "instantiation": form,
            "sub_sample": None,
            "layer2_extent": "spacetime",
            "norm": "frozen",
            # Blocks that start as the identity would hide what they compute.
            "zero_init": False,
        }
        work = Work(network, training=True, num_clips=1, side=amount.side, overrides=overrides)
        yield measure_network(work, ("ours", "materialised"), min_seconds=0.0, min_runs=1)
