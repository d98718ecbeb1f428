"""One row of the benchmark: each candidate checked against the reference, then timed, then weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks import cells, operator
from benchmarks.cells import Cell
from benchmarks.floor import bare_products, count_positions, products
from benchmarks.measure import Timing, peak_memory, time_together
from nonlocalnn.blocks import NonLocalNd

Row = dict[str, Any]
# A candidate that needs more than this part of the free memory is listed and not run.
_MEMORY_SHARE = 0.6
_MEMORY_SECONDS = 900.0


def measure_cell(cell: Cell, min_seconds: float, memory: bool, *, compiled: bool = False) -> Row:
    """Check, time and weigh every candidate of a cell.

    Args:
        cell: What to measure.
        min_seconds: As of :func:`benchmarks.measure.time_together`.
        memory: Whether to measure memory.
        compiled: Whether to measure blocks under ``torch.compile`` as well.

    Returns:
        The row but for what :meth:`Cell.to_dict` holds: "error" by candidate, "seconds", "ratio",
        "peak_bytes" and, for the candidates that were not measured, the reason in "absent". The time
        "floor" is that of the bare matrix products, whose number of FLOPs is "flops".
    """
    block, x = cells.make_cell(cell)
    if compiled:
        # What was compiled for other cells counts towards a limit beyond which nothing is compiled.
        torch.compiler.reset()
    workers, errors, absent = _check_candidates(cell, block, x, compiled)
    timed = dict(workers)
    timed["floor"] = bare_products(
        block, cell.shape, backward=cell.backward, device=cell.device, dtype=cells.DTYPES[cell.dtype]
    )
    timings = time_together(timed, min_seconds=min_seconds, device=cell.device)
    # Compilers hold memory of their own, and compile again in each process.
    weighed = [name for name in workers if "compiled" not in name] if memory else []
    peaks = _peaks(f"{cells.__name__}:prepare_peak", weighed, cell.to_dict(), cell.device, absent)
    num_queries, num_keys = count_positions(block, cell.shape)
    flops = sum(product.flops for product in products(block, cell.shape)) * (3 if cell.backward else 1)
    sizes = {"direction": cell.direction, "queries": num_queries, "keys": num_keys, "flops": flops}
    return {**sizes, **_summary(timings), "peak_bytes": peaks, "error": errors, "absent": absent}


def measure_operator(fields: dict[str, Any], min_seconds: float, memory: bool) -> Row:
    """Check, time and weigh the concatenation operator, beside the same with the affinity in memory.

    Args:
        fields: Keyword arguments of :func:`benchmarks.operator.make_operands`.
        min_seconds: As of :func:`benchmarks.measure.time_together`.
        memory: Whether to measure memory.

    Returns:
        A row like that of :func:`measure_cell`.
    """
    operands = operator.make_operands(**fields)
    wanted = operator.results("materialised", operands)
    found = operator.results("ours", operands)
    error = max(cells.relative_error(one, other, other) for one, other in zip(found, wanted, strict=True))
    row: Row = {"queries": fields["num_positions"], "keys": fields["num_positions"], "error": {"ours": error}}
    row["direction"] = "forward+backward" if fields["backward"] else "forward"
    if not error <= cells.TOLERANCES[fields["dtype"]]:
        refusal = f"refused: differs from the reference by {error:.1e}"
        return {**row, "seconds": {}, "ratio": {}, "peak_bytes": {}, "absent": {"ours": refusal}}
    workers = {name: operator.worker(name, operands) for name in operator.OPERATORS}
    timings = time_together(workers, min_seconds=min_seconds, device=fields["device"])
    absent: dict[str, str] = {}
    prepare = f"{operator.__name__}:prepare_peak"
    peaks = _peaks(prepare, workers, fields, fields["device"], absent) if memory else {}
    return {**row, **_summary(timings), "peak_bytes": peaks, "absent": absent}


def _peaks(
    prepare: str, names: Iterable[str], fields: dict[str, Any], device: str, absent: dict[str, str]
) -> dict[str, int]:
    """Return each candidate's peak in bytes; a failure is noted in ``absent``, its time stands."""
    peaks = {}
    for name in names:
        try:
            peaks[name] = peak_memory(
                prepare, {"name": name, **fields}, device=device, timeout=_MEMORY_SECONDS
            )
        except (MemoryError, ValueError) as failure:
            absent[f"{name}, memory"] = str(failure)
    return peaks


def _summary(timings: dict[str, Timing]) -> Row:
    ours = timings.get("ours")
    ratio = {}
    if ours is not None:
        ratio = {name: timing.median / ours.median for name, timing in timings.items() if name != "ours"}
    return {
        "seconds": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
        "ratio": ratio,
    }


def _check_candidates(
    cell: Cell, block: NonLocalNd, x: Tensor, compiled: bool
) -> tuple[dict[str, Callable[[], None]], dict[str, float], dict[str, str]]:
    """Return what is to be timed, the errors, and for each other candidate why it is not, by name."""
    part, expected = cells.reference_values(cell, block, x)
    tolerance = cells.find_tolerance(cell, block, part, expected)
    absent: dict[str, str] = {}
    errors: dict[str, float] = {}
    workers: dict[str, Callable[[], None]] = {}
    for name in cells.candidate_names(cell, compiled):
        needed = cells.estimate_bytes(name, cell, block)
        if needed > _MEMORY_SHARE * cells.free_memory(cell.device):
            absent[name] = f"does not fit ({needed / 2**30:.0f} GiB)"
            continue
        try:
            module = cells.build(name, block)
            error = cells.find_error(cell, block, module, part, expected)
        except ImportError:
            absent[name] = "not installed"
            continue
        except (RuntimeError, MemoryError) as failure:
            absent[name] = f"fails: {' '.join(str(failure).split()).partition(': [')[0][:160]}"
            continue
        errors[name] = error
        if not error <= tolerance:
            absent[name] = f"refused: differs from the reference by {error:.1e}"
            continue
        workers[name] = cells.worker(cell, block, module, x)
    return workers, errors, absent
