"""Positions split over processes: memory and time of each rank, and the bytes it sends."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from benchmarks.about import about
from benchmarks.measure import resident_peak
from nonlocalnn.blocks import NonLocal2d
from nonlocalnn.functional import INSTANTIATIONS, split_positions
from nonlocalnn.functional.split import bytes_moved

CHANNELS = 64
# A long clip for the table by formula: 1,024 frames of 56 x 56 positions, keys pooled, 512 channels inside.
_LONG = {"num_queries": 1024 * 56 * 56, "num_keys": 1024 * 28 * 28, "width": 512, "num_values": 512}
_MANY = (1, 8, 64, 1000)


def run(
    *,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measure a block's forward and backward pass with its rows split over 1, 2 and 4 processes.

    Args:
        quick: A tiny map: shows that everything works, and says nothing of speed.
        progress: Takes a line for each row.
        save: Takes the report after each row.

    Returns:
        The report, as JSON can hold it: "about"; "rows": form, ranks, positions, and of each rank the
        "seconds" and the "peak_bytes" above what it held before, and "bytes_sent" by the formula.
    """
    side = 32 if quick else 224
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick), "rows": []}
    for form in INSTANTIATIONS:
        for num_ranks in (1, 2, 4):
            row = _measured(form, num_ranks, side)
            report["rows"].append(row)
            peak = max(row["peak_bytes"]) / 2**20
            progress(f"{form}, {num_ranks} ranks: {max(row['seconds']):.3g} s, {peak:.0f} MiB a rank")
            save(report)
    return report


def _measured(form: str, num_ranks: int, side: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(  # type: ignore[attr-defined]
            _rank, (num_ranks, form, side, folder), nprocs=num_ranks
        )
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(num_ranks)]
    inside = CHANNELS // 2
    # The Gaussian form compares x itself.
    width = CHANNELS if form == "gaussian" else inside
    return {
        "form": form,
        "num_ranks": num_ranks,
        "side": side,
        "seconds": [each["seconds"] for each in found],
        "peak_bytes": [each["peak_bytes"] for each in found],
        "bytes_sent": bytes_moved(
            form,
            num_queries=side * side,
            num_keys=(side // 2) ** 2,
            width=width,
            num_values=inside,
            num_ranks=num_ranks,
        ),
    }


def _rank(rank: int, num_ranks: int, form: Any, side: int, folder: str) -> None:
    torch.set_num_threads(1)
    # Loopback by its name: the machine's own name may resolve to nothing.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks)
    torch.manual_seed(0)
    block = NonLocal2d(CHANNELS, instantiation=form, zero_init=False)
    x = torch.randn(1, CHANNELS, side // num_ranks, side)
    tiny = torch.randn(1, CHANNELS, 4, 4)

    def step(given: torch.Tensor) -> None:
        with split_positions(dim="H"):
            block(given.requires_grad_()).square().mean().backward()

    step(tiny)
    dist.barrier()
    begin = time.perf_counter()
    peak = resident_peak(lambda: step(x))
    seconds = time.perf_counter() - begin
    dist.destroy_process_group()
    (Path(folder) / f"{rank}.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak}))


def markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report: what was measured, and by formula what many ranks would send."""
    side = report["rows"][0]["side"]
    lines = [
        f"{side * side:,} positions, {(side // 2) ** 2:,} keys, {CHANNELS} channels; a forward and a "
        "backward pass, one thread a process.",
        "",
        "| form | ranks | peak memory a rank | time | sent by a rank |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        cells = [
            row["form"],
            str(row["num_ranks"]),
            f"{max(row['peak_bytes']) / 2**20:.0f} MiB",
            f"{max(row['seconds']):.2f} s",
            f"{row['bytes_sent'] / 2**20:.2f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_long_table()])


def _long_table() -> list[str]:
    """Return, by the formula, what each rank would send for one long clip."""
    lines = [
        f"By formula, one clip of {_LONG['num_queries']:,} positions and {_LONG['num_keys']:,} keys, D = E = "
        f"{_LONG['width']}, sent by each rank in a forward and a backward pass, and the keys and values "
        "that it holds at a time:",
        "",
        "| ranks | softmax, sent | held | dot product, sent | concatenation, sent | held |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for num_ranks in _MANY:
        sent = {
            form: bytes_moved(form, num_ranks=num_ranks, **_LONG)
            for form in ("embedded_gaussian", "dot_product", "concatenation")
        }
        # The ring has its own share and one more in hand; gathered keys are all there.
        share = 4 * _LONG["num_keys"] * (_LONG["width"] + _LONG["num_values"]) // num_ranks
        held = share if num_ranks == 1 else 2 * share
        gathered = 4 * _LONG["num_keys"] * (_LONG["num_values"] + 1)
        cells = [
            f"{num_ranks:,}",
            _gib(sent["embedded_gaussian"]),
            _gib(held),
            _gib(sent["dot_product"]),
            _gib(sent["concatenation"]),
            _gib(gathered),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gib(value: int) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**28 else f"{value / 2**20:.2f} MiB"
