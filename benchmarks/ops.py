"""The blocks beside other ways to compute them: a grid of shapes, an operator, and a sweep over N."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from benchmarks.about import about, same_conditions
from benchmarks.cells import DTYPES, Cell
from benchmarks.rows import Row, measure_cell, measure_operator
from nonlocalnn._errors import check_choice
from nonlocalnn.blocks import SubSample
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS, Instantiation

# Shapes of the paper's networks: its blocks stand after res3 and res4; then a large image and a sequence.
_VIDEO = ((1, 512, 4, 28, 28), (1, 1024, 4, 14, 14), (8, 1024, 4, 14, 14), (1, 512, 16, 28, 28))
_GRID: tuple[tuple[tuple[int, ...], SubSample], ...] = (
    *((shape, "after") for shape in _VIDEO),
    *((shape, None) for shape in _VIDEO),
    ((1, 64, 224, 224), "after"),
    ((2, 512, 1024), "after"),
    # Small maps, where calls cost more than arithmetic.
    ((1, 512, 7, 7), None),
    ((1, 1024, 14, 14), None),
    ((1, 64, 28, 28), None),
    # A batch of training: many small maps.
    ((64, 32, 14, 14), None),
)
# One block at six sizes, from a small map to a long clip: enough to say who is ahead on a processor.
_CORE: tuple[tuple[tuple[int, ...], SubSample], ...] = (
    ((1, 512, 7, 7), None),
    ((1, 64, 28, 28), None),
    ((64, 32, 14, 14), None),
    ((1, 1024, 4, 14, 14), None),
    ((1, 512, 4, 28, 28), None),
    ((1, 512, 16, 28, 28), None),
)
# Both for the two Gaussian forms; the others have no exponential.
_LOGITS = (1.0, 30.0)
_QUICK_GRID: tuple[tuple[tuple[int, ...], SubSample], ...] = (
    ((2, 6, 2, 4, 6), "after"),
    ((1, 6, 4, 6), None),
)


@dataclass(frozen=True)
class _Amount:
    """How much is measured: of the operator (N, E), of the sweep (sides, channels), and for how long.

    Args:
        grid: Inputs of the blocks, and how keys are sub-sampled.
        fit_from: N from which on exponents are fitted.
        num_memory: Rows whose memory is measured, in fresh processes, which take seconds each.
        compiled: Whether blocks under ``torch.compile`` are measured, which takes half a minute a row.
    """

    grid: tuple[tuple[tuple[int, ...], SubSample], ...]
    operator: tuple[int, int]
    sides: tuple[int, ...]
    channels: int
    fit_from: int
    min_seconds: float
    num_memory: float
    compiled: bool


_FULL = _Amount(_GRID, (12544, 256), (28, 56, 112, 224), 64, 3136, 1.0, math.inf, compiled=True)
_SHORT = _Amount(_CORE, (12544, 256), (), 64, 3136, 0.5, 0, compiled=True)
_QUICK = _Amount(_QUICK_GRID, (64, 4), (4, 6, 8), 8, 1, 0.0, 1, compiled=False)


def run(
    *,
    quick: bool = False,
    core: bool = False,
    forms: Sequence[Instantiation] | None = None,
    shapes: Sequence[tuple[int, ...]] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the forms' blocks beside other ways to compute them, and how ours grow with N.

    The two Gaussian forms are measured at small and at large logits, all forms on small maps as well.

    Each candidate is checked first against the reference at the same weights, values and gradients; one that
    differs is listed and not timed. So is one that is not installed or would not fit in memory.

    Args:
        quick: Tiny shapes and few runs: shows that everything works, and says nothing of speed.
        core: Five inputs that stand for the grid, for half the time, and neither memory nor a sweep over N.
        forms: Instantiations; None is all four.
        shapes: Inputs of the grid, (B, C, sides), sub-sampled after phi and g; None is the built-in grid.
        device: "cpu", "cuda" or "cuda:N".
        dtype: "float32" or "bfloat16", of inputs and weights.
        progress: Takes a line for each row.
        save: Takes the report after each row.
        earlier: A report of the same conditions; its rows are not measured again.

    Returns:
        The report, as JSON can hold it: "about"; "grid", "operator" and "sweep", which are lists of rows; and
        "exponents" of time and memory over N. Times are in seconds, memory in bytes, and "ratio" is another
        candidate's median time over ours.

    Raises:
        ValueError: A setting is unknown, the device is not there, or ``earlier`` had other conditions.
    """
    chosen = _check_settings(forms, shapes, device, dtype)
    amount = _QUICK if quick else _SHORT if core else _FULL
    report: dict[str, Any] = {"about": about(device=device, dtype=dtype, quick=quick)}
    if earlier is not None and not same_conditions(report["about"], earlier["about"]):
        raise ValueError(
            "the earlier results are of other code, versions, machine or setting: keep them where they "
            "are and write the new ones elsewhere"
        )
    report |= {"grid": [], "operator": [], "sweep": [], "exponents": {}}
    tasks = _tasks(chosen, shapes, device, dtype, amount)
    for number, (section, fields, measure) in enumerate(tasks):
        row = next((old for old in (earlier or {}).get(section, ()) if fields.items() <= old.items()), None)
        if row is None:
            row = {**fields, **measure(number < amount.num_memory)}
        report[section].append(row)
        report["exponents"] = fit_exponents(report["sweep"], amount.fit_from)
        progress(f"{section}: {describe(row)}")
        save(report)
    return report


def describe(row: Row) -> str:
    """Return a row in one line, for progress."""
    ours = row["seconds"].get("ours")
    time = "not timed" if ours is None else f"{1000 * ours['median']:.3g} ms"
    others = "".join(f", {name} x {ratio:.2f}" for name, ratio in row["ratio"].items())
    absent = "".join(f"; {name}: {reason}" for name, reason in row["absent"].items())
    cell = f"{row['form']} {'x'.join(map(str, row['shape']))} {row['direction']}"
    return f"{cell}, logits {row.get('logits', 1):g}: {time}{others}{absent}"


def fit_exponents(rows: Iterable[Row], fit_from: int) -> dict[str, Any]:
    """Fit time and memory of the sweep's rows as powers of N, by least squares on logarithms.

    Args:
        rows: Rows of the sweep.
        fit_from: The smallest N that is used.

    Returns:
        By form and candidate: the exponents "seconds" and "peak_bytes", each where there are two points, and
        the N that they are fitted over.

    Example:
        >>> rows = [
        ...     {"form": "gaussian", "queries": n, "seconds": {"ours": {"median": n**2}}, "peak_bytes": {}}
        ...     for n in (10, 20, 40)
        ... ]
        >>> fit_exponents(rows, 10)["gaussian"]["ours"]["seconds"]
        {'exponent': 2.0, 'over': [10, 20, 40]}
    """
    points: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in rows:
        if row["queries"] < fit_from:
            continue
        for name, timing in row["seconds"].items():
            points.setdefault((row["form"], name, "seconds"), []).append((row["queries"], timing["median"]))
        for name, size in row["peak_bytes"].items():
            points.setdefault((row["form"], name, "peak_bytes"), []).append((row["queries"], size))
    found: dict[str, Any] = {}
    for (form, name, what), pairs in points.items():
        pairs = [(queries, value) for queries, value in pairs if value > 0]
        if len(pairs) < 2:
            continue
        over = [queries for queries, _ in pairs]
        slope = statistics.linear_regression(
            [math.log(queries) for queries in over], [math.log(value) for _, value in pairs]
        ).slope
        found.setdefault(form, {}).setdefault(name, {})[what] = {"exponent": round(slope, 3), "over": over}
    return found


_Task = tuple[str, dict[str, Any], Callable[[bool], Row]]


def _tasks(
    forms: Sequence[Instantiation],
    shapes: Sequence[tuple[int, ...]] | None,
    device: str,
    dtype: str,
    amount: _Amount,
) -> Iterable[_Task]:
    """Yield for each row its section, the fields that tell it from others, and what measures it."""
    grid = amount.grid
    if shapes is not None:
        grid = tuple((tuple(shape), "after") for shape in shapes)

    def of_cell(section: str, cell: Cell) -> _Task:
        def measure(memory: bool) -> Row:
            return measure_cell(
                cell, amount.min_seconds, memory and cell.logits == 1, compiled=amount.compiled
            )

        return section, cell.to_dict(), measure

    for shape, sub_sample in grid:
        for form in forms:
            # The long clip takes minutes a cell: large logits are measured on the four smaller maps.
            both = form in SOFTMAX_INSTANTIATIONS and not (amount is _SHORT and shape == _CORE[-1][0])
            for logits in _LOGITS if both else _LOGITS[:1]:
                for backward in (False, True):
                    yield of_cell("grid", Cell(form, shape, sub_sample, backward, device, dtype, logits))
    if "concatenation" in forms:
        num_positions, num_values = amount.operator
        for backward in (False, True):
            made = {
                "num_positions": num_positions,
                "num_values": num_values,
                "device": device,
                "dtype": dtype,
                "backward": backward,
            }
            fields = {"form": "concatenation", "shape": [1, num_positions, num_values], "backward": backward}
            yield "operator", fields, functools.partial(measure_operator, made, amount.min_seconds)
    for form in forms:
        for side in amount.sides:
            yield of_cell("sweep", Cell(form, (1, amount.channels, side, side), None, True, device, dtype))


def _check_settings(
    forms: Sequence[Instantiation] | None, shapes: Sequence[tuple[int, ...]] | None, device: str, dtype: str
) -> tuple[Instantiation, ...]:
    """Return the forms, once all settings are known to be right."""
    known: tuple[Instantiation, ...] = get_args(Instantiation)
    for form in forms or ():
        check_choice("form", form, known)
    check_choice("dtype", dtype, tuple(DTYPES))
    kind = device.partition(":")[0]
    check_choice("device", kind, ("cpu", "cuda"))
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' and this machine has none that PyTorch can use: take 'cpu'")
    for shape in shapes or ():
        if not 3 <= len(shape) <= 5 or min(shape) < 1 or shape[1] < 2:
            raise ValueError(
                f"a shape is (B, C, N), (B, C, H, W) or (B, C, T, H, W), C at least 2; got {shape}"
            )
    return known if forms is None else tuple(forms)
