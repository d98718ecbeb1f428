"""A block over the whole map of a Cityscapes image, as mmsegmentation's head has it: time and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.about import about
from benchmarks.baselines import MaterialisedBlock, PlainAttentionBlock
from benchmarks.measure import peak_memory, time_together
from nonlocalnn.blocks import NonLocal2d

# The head's block: 512 channels, 256 inside, over every position of an eighth of 1024 x 2048 pixels.
CHANNELS, INTER_CHANNELS = 512, 256
_FULL, _QUICK, _TINY = (128, 256), (8, 16), (4, 8)
# What the materialised form holds at a time: of a test the logits and their softmax; training keeps the
# softmax, and makes its gradient and that of the logits.
_COPIES = {"test": 2, "training": 3}
_WAYS = ("ours", "PyTorch's fused attention", "materialised")
_WORKS = tuple(_COPIES)
# Float32 results of both ways, of sums of 512 numbers and of weights over 32,768 keys.
_MOST_OFF = 1e-3


def run(
    *,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measure the block in a test and in a training step, by our engine and by PyTorch's fused attention.

    What the materialised form needs is computed, and measured where it is no more than 2 GiB: on the whole
    map it is not made.

    Args:
        quick: A tiny map: shows that everything works, and says nothing of speed.
        progress: Takes a line for each row.
        save: Takes the report after each row.

    Returns:
        The report, as JSON can hold it: "about"; "sides" of the map; "positions"; "rows": "work", "way",
        "affinity_bytes" (the N x M numbers that it holds at a time) and, where it was run, the median
        "seconds" and the "peak_bytes" above weights and input.

    Raises:
        ValueError: The ways do not give the same.
    """
    sides = _QUICK if quick else _FULL
    positions = sides[0] * sides[1]
    report: dict[str, Any] = {
        "about": about(device="cpu", dtype="float32", quick=quick),
        "sides": list(sides),
        "channels": [CHANNELS, INTER_CHANNELS],
        "positions": positions,
        "rows": [],
    }
    _check_alike()
    for work in _WORKS:
        needed = _COPIES[work] * 4 * positions**2
        ways = [way for way in _WAYS if way != "materialised" or needed <= 2**31]
        timings = time_together({way: _passes(way, work, sides) for way in ways}, min_seconds=0, max_runs=3)
        for way in _WAYS:
            row = {"work": work, "way": way, "affinity_bytes": needed if way == "materialised" else 0}
            if way in ways:
                arguments = {"way": way, "work": work, "sides": list(sides)}
                row["seconds"] = {"median": timings[way].median}
                row["peak_bytes"] = peak_memory(f"{__name__}:prepare", arguments)
            report["rows"].append(row)
            progress(f"{work}, {way}: {_cell(row)}")
            save(report)
    return report


def prepare(way: str, work: str, sides: list[int]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the work at a tiny size and in full, for :func:`benchmarks.measure.peak_memory`."""
    return _passes(way, work, _TINY), _passes(way, work, (sides[0], sides[1]))


def _passes(way: str, work: str, sides: tuple[int, int]) -> Callable[[], Tensor | None]:
    """Return a pass over one map, which returns what it computed; all is made here."""
    torch.manual_seed(0)
    block = NonLocal2d(
        CHANNELS, inter_channels=INTER_CHANNELS, use_scale=True, sub_sample=None, norm=None, zero_init=False
    )
    module: nn.Module = {
        "ours": lambda: block,
        "PyTorch's fused attention": lambda: PlainAttentionBlock(block),
        "materialised": lambda: MaterialisedBlock(block),
    }[way]()
    x = torch.randn(1, CHANNELS, *sides, requires_grad=work == "training")

    @torch.no_grad()
    def test() -> Tensor:
        found: Tensor = module(x)
        return found

    def step() -> Tensor | None:
        x.grad = None
        block.zero_grad()
        module(x).square().sum().backward()
        return x.grad

    return test if work == "test" else step


def _check_alike() -> None:
    """Check on a small map that all ways compute the same: a wrong one is not timed."""
    for work in _WORKS:
        expected, *others = (_passes(way, work, _QUICK)() for way in reversed(_WAYS))
        assert expected is not None
        for found in others:
            assert found is not None
            off = float((found - expected).abs().max() / expected.abs().max())
            if off > _MOST_OFF:
                raise ValueError(f"the ways of a {work} must give the same; they are {off:.1g} apart")


def _cell(row: Mapping[str, Any]) -> str:
    if "seconds" not in row:
        return f"not run: {row['affinity_bytes'] / 2**20:,.0f} MiB for the affinity alone"
    return f"{row['seconds']['median']:,.2f} s, {row['peak_bytes'] / 2**20:,.0f} MiB"


def markdown(report: Mapping[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    height, width = report["sides"]
    rows = {(row["work"], row["way"]): row for row in report["rows"]}
    ours, needed = (rows["test", way] for way in ("ours", "materialised"))
    facts = report["about"]
    # A measurement that was stopped has its first rows.
    works = [work for work in _WORKS if all((work, way) in rows for way in _WAYS)]
    return "\n".join(
        [
            f"Over all {report['positions']:,} positions of the map the block takes "
            f"{ours['peak_bytes'] / 2**20:,.0f} MiB in a test, where the affinity and its softmax would be "
            f"{needed['affinity_bytes'] / 2**20:,.0f} MiB.",
            "",
            "    python -m benchmarks large-map",
            "",
            f"The block of mmsegmentation's non-local head (embedded Gaussian, scaled, {CHANNELS} channels, "
            f"{INTER_CHANNELS} inside, keys not sub-sampled) on a map of {height} x {width}, an eighth of "
            "the sides of a whole Cityscapes image: median time, and peak memory above weights and input. "
            "The materialised form holds the logits and their softmax in a test, and a gradient more in "
            "training.",
            "",
            f"| | {' | '.join(works)} |",
            "| --- |" + " ---: |" * len(works),
            *(f"| {way} | {' | '.join(_cell(rows[work, way]) for work in works)} |" for way in _WAYS),
            "",
            f"{facts['processor']}, {facts['threads']} threads, torch {facts['versions']['torch']}.",
        ]
    )
