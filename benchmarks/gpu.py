"""A GPU in one command: every engine against the reference, then the blocks beside other candidates.

Everything fits in eight minutes: what is not reached by then is counted and left out, the compiled candidates
first. What was found is saved row by row, so that a session that ends early loses one row.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks import cells
from benchmarks.about import about
from benchmarks.cells import Cell
from benchmarks.ops import describe
from benchmarks.report import comparison, conditions, losses, table
from benchmarks.rows import measure_cell
from nonlocalnn.blocks import SubSample
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS, Engine, Instantiation, non_local

_FORMS: tuple[Instantiation, ...] = get_args(Instantiation)
# No row is begun later than this; one takes up to half a minute where blocks are compiled.
_SECONDS = 420.0
# (N, M, D, E): what the flash kernel takes, what it takes padded, what only others take, so many keys that
# the concatenation form sorts them, what fits no kernel.
_CHECKED = (
    (300, 200, 64, 64),
    (300, 200, 64, 32),
    (200, 300, 512, 256),
    (500, 4500, 16, 70),
    (97, 89, 20, 12),
)
_SHAPES: tuple[tuple[tuple[int, ...], SubSample], ...] = (
    ((1, 512, 16, 28, 28), None),
    ((8, 1024, 4, 14, 14), "after"),
    ((1, 64, 224, 224), "after"),
    ((8, 512, 7, 7), None),
)
_QUICK_SHAPES: tuple[tuple[tuple[int, ...], SubSample], ...] = (((1, 6, 4, 6), None),)


def run(
    *,
    quick: bool = False,
    device: str = "cuda",
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Check every engine on a device, with and without deterministic mode, and measure the blocks there.

    Args:
        quick: Tiny shapes and nothing compiled: shows that everything works.
        device: "cuda" or "cuda:N"; "cpu" shows that everything works where there is no GPU.
        progress: Takes a line for each result.
        save: Takes the report after each result.

    Returns:
        The report, as JSON can hold it: "about"; "checks", each an engine's error against the reference;
        "deterministic", whether two passes of each form gave the same bits in that mode; "grid", rows as
        those of :func:`benchmarks.ops.run`; and how many rows were "left_out".
    """
    started = time.monotonic()
    # cuBLAS reads it when it is first used; deterministic mode refuses products without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    report: dict[str, Any] = {"about": about(device=device, dtype="float32 and bfloat16", quick=quick)}
    report |= {"checks": [], "deterministic": [], "grid": [], "left_out": 0}
    for check in _checks(device, quick):
        report["checks"].append(check)
        progress(f"check: {check['form']}, {check['engine']}, {check['case']}: {check['outcome']}")
        save(report)
    for form in _FORMS:
        report["deterministic"].append({"form": form, "outcome": _deterministic(form, device)})
        progress(f"deterministic: {form}: {report['deterministic'][-1]['outcome']}")
        save(report)
    for cell, compiled in _cells(device, quick):
        if time.monotonic() - started > _SECONDS:
            report["left_out"] += 1
            continue
        row = {**cell.to_dict(), **measure_cell(cell, 0.0 if quick else 0.1, False, compiled=compiled)}
        report["grid"].append(row)
        progress(f"{cell.dtype}: {describe(row)}")
        save(report)
    save(report)
    return report


def _cells(device: str, quick: bool) -> Iterator[tuple[Cell, bool]]:
    """Yield what is measured, and whether compiled blocks are measured with it: those come last."""
    shapes = _QUICK_SHAPES if quick else _SHAPES
    for (shape, sub_sample), dtype, form in itertools.product(shapes, cells.DTYPES, _FORMS):
        for logits, backward in itertools.product((1.0, 30.0), (False, True)):
            if logits == 1.0 or form in SOFTMAX_INSTANTIATIONS:
                yield Cell(form, shape, sub_sample, backward, device, dtype, logits), False
    for (shape, sub_sample), dtype, form in itertools.product(shapes[: 1 - quick], cells.DTYPES, _FORMS):
        yield Cell(form, shape, sub_sample, True, device, dtype), True


def _checks(device: str, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the error of each engine, form, type, size and mask, in values and gradients."""
    sizes = _CHECKED[-1:] if quick else _CHECKED
    for form, size, dtype, masked in itertools.product(_FORMS, sizes, cells.DTYPES, (False, True)):
        operands = _operands(form, size)
        mask = torch.arange(size[1]) < torch.tensor([[size[1] // 2], [size[1]]]) if masked else None
        halves = [part.to(cells.DTYPES[dtype]) for part in operands]
        # In float64, of the numbers that the engine gets.
        expected = _outcome(form, [part.double() for part in halves], mask, "reference", "cpu")
        engines: tuple[Engine, ...] = ("fused", "auto")
        for engine in engines:
            case = f"N, M, D, E = {size}, {dtype}" + ", mask" * masked
            found = {"form": form, "engine": engine, "case": case}
            try:
                results = _outcome(form, halves, mask, engine, device)
            except RuntimeError as failure:
                yield {**found, "error": None, "outcome": f"fails: {' '.join(str(failure).split())[:160]}"}
                continue
            error = max(
                cells.relative_error(mine, theirs, theirs)
                for mine, theirs in zip(results, expected, strict=True)
            )
            outcome = "right" if error <= cells.TOLERANCES[dtype] else "WRONG"
            yield {**found, "error": error, "outcome": f"{outcome}, error {error:.1e}"}


def _operands(form: Instantiation, size: tuple[int, int, int, int]) -> list[Tensor]:
    """Return theta, phi and g, and w_f where the form has it; logits have a standard deviation of about 2."""
    num_queries, num_keys, width, num_values = size
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, num_queries, width), (2, num_keys, width), (2, num_keys, num_values)]
    theta, phi, g = (torch.randn(shape, generator=generator) for shape in shapes)
    parts = [2 * theta / width**0.5, phi, g]
    return [*parts, torch.randn(2 * width, generator=generator)] if form == "concatenation" else parts


def _outcome(
    form: Instantiation, operands: list[Tensor], mask: Tensor | None, engine: Engine, device: str
) -> list[Tensor]:
    """Return y and all gradients, in float64 on the CPU."""
    leaves = [part.detach().to(device).requires_grad_() for part in operands]
    w_f = leaves[3] if len(leaves) > 3 else None
    mask = None if mask is None else mask.to(device)
    y = non_local(*leaves[:3], instantiation=form, w_f=w_f, key_mask=mask, engine=engine)
    slope = torch.cos(torch.arange(y.numel())).view_as(y).to(y)
    found = [y.detach(), *torch.autograd.grad(y, leaves, slope)]
    return [part.double().cpu() for part in found]


def _deterministic(form: Instantiation, device: str) -> str:
    """Return whether two passes give the same bits in PyTorch's deterministic mode."""
    was = torch.are_deterministic_algorithms_enabled()
    operands = _operands(form, _CHECKED[0])
    torch.use_deterministic_algorithms(True)
    try:
        one, other = (_outcome(form, operands, None, "fused", device) for _ in range(2))
    except RuntimeError as failure:
        return f"fails: {' '.join(str(failure).split())[:160]}"
    finally:
        torch.use_deterministic_algorithms(was)
    return "the same bits" if all(map(torch.equal, one, other)) else "OTHER BITS"


def markdown(report: Mapping[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    wrong = [check for check in report["checks"] if not check["outcome"].startswith("right")]
    parts = ["    python -m benchmarks gpu", conditions(report["about"])]
    parts.append(f"{len(report['checks']) - len(wrong)} of {len(report['checks'])} checks are right.")
    if wrong:
        lines = [[check["form"], check["engine"], check["case"], check["outcome"]] for check in wrong]
        parts.append(table(["form", "engine", "case", "outcome"], lines))
    modes = [[row["form"], row["outcome"]] for row in report["deterministic"]]
    parts.append(table(["form", "two passes in deterministic mode"], modes))
    if report["left_out"]:
        parts.append(f"{report['left_out']} rows were not reached in {_SECONDS / 60:.0f} minutes.")
    for dtype in cells.DTYPES:
        rows = [row for row in report["grid"] if row["dtype"] == dtype]
        if rows:
            parts += [f"## {dtype}", *losses(rows), comparison(rows)]
    return "\n\n".join(parts)
