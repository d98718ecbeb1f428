"""Looking at maps that are too large to hold: time and peak memory of rows on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from torch import nn

from benchmarks.about import about
from benchmarks.measure import peak_memory
from nonlocalnn.affinity import AffinityMap, capture_affinity, summarise
from nonlocalnn.blocks import NonLocal2d
from nonlocalnn.functional import Instantiation

CHANNELS = 64
_TASKS: Mapping[str, Callable[[AffinityMap], object]] = {
    "one row": lambda shown: shown.rows([(3, 4)]),
    "100 rows": lambda shown: shown.rows([(3, column % shown.grid.sides[1]) for column in range(100)]),
    "five keys of each of 1,000 queries": lambda shown: shown.top(_thousand(shown), 5),
    "summary over 1,000 queries": lambda shown: summarise(shown, queries=_thousand(shown)),
}


def run(
    *,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measure, for each form, what looking at the map of one image costs.

    Args:
        quick: A tiny map: shows that everything works, and says nothing of speed.
        progress: Takes a line for each row.
        save: Takes the report after each row.

    Returns:
        The report, as JSON can hold it: "about", and "rows": form, sides, queries N, keys M, the bytes that
        the N x M map would need, and for each task "seconds" and "peak_bytes", recording included.
    """
    side = 32 if quick else 224
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick), "rows": []}
    for form in get_args(Instantiation):
        shown = _recorded(form, side)
        num_queries, num_keys = side * side, (side // 2) ** 2
        row: dict[str, Any] = {
            "form": form,
            "side": side,
            "channels": CHANNELS,
            "num_queries": num_queries,
            "num_keys": num_keys,
            "map_bytes": 4 * num_queries * num_keys,
            "tasks": [],
        }
        for task in _TASKS:
            start = time.perf_counter()
            _TASKS[task](shown)
            seconds = time.perf_counter() - start
            arguments = {"form": form, "side": side, "task": task}
            peak = peak_memory("benchmarks.maps:prepare", arguments)
            row["tasks"].append({"task": task, "seconds": seconds, "peak_bytes": peak})
            progress(f"{form}, {task}: {seconds:.3g} s, {peak / 2**20:.0f} MiB")
        report["rows"].append(row)
        save(report)
    return report


def prepare(form: Instantiation, side: int, task: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the work at a tiny size and in full, for :func:`peak_memory`: recording, and the task."""
    return (
        lambda: _TASKS[task](_recorded(form, 8)),
        lambda: _TASKS[task](_recorded(form, side)),
    )


def _thousand(shown: AffinityMap) -> list[tuple[int, int]]:
    height, width = shown.grid.sides
    return [(place % height, place % width) for place in range(1000)]


def _recorded(form: Instantiation, side: int) -> AffinityMap:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1), NonLocal2d(CHANNELS, instantiation=form)
    ).eval()

    class _Stop(Exception):
        """Raised once the block has been recorded: its own output is no part of looking at it."""

    def stop(*_: object) -> None:
        raise _Stop

    with torch.no_grad(), capture_affinity(model) as maps:
        handle = model[1].register_forward_pre_hook(stop)
        try:
            model(torch.rand(1, 3, side, side))
        except _Stop:
            pass
        finally:
            handle.remove()
    return maps["1"]


def markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report."""
    first = report["rows"][0]
    lines = [
        f"{first['num_queries']:,} queries, {first['num_keys']:,} keys ({first['side']} x {first['side']} "
        f"positions, {first['channels']} channels): the map itself would be "
        f"{first['map_bytes'] / 2**30:.1f} GiB.",
        "",
        "| form | " + " | ".join(task["task"] for task in first["tasks"]) + " |",
        "| --- |" + " ---: |" * len(first["tasks"]),
    ]
    for row in report["rows"]:
        cells = [
            f"{_seconds(task['seconds'])}, {task['peak_bytes'] / 2**20:.0f} MiB" for task in row["tasks"]
        ]
        lines.append(f"| {row['form']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.1f} ms"
