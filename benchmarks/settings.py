"""What masks, heads and a second input cost a block: time beside the plain block, and growth of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.about import about
from benchmarks.measure import peak_memory, time_together
from benchmarks.ops import fit_exponents
from nonlocalnn.blocks import NonLocal2d
from nonlocalnn.functional import Instantiation

CHANNELS = 64
_FULL, _QUICK = (28, 56, 112, 136, 160), (4, 6)
# On smaller maps the weights are kept as a plain block keeps them, and grow as N x M.
_FIT_FROM = 112 * 112
# By name: what the block is made with, whether a part is padding, whether keys are another map's.
_SETTINGS: Mapping[str, tuple[dict[str, Any], bool, bool]] = {
    "plain": ({}, False, False),
    "key mask": ({}, True, False),
    "4 heads": ({"num_heads": 4}, False, False),
    "context": ({"context_channels": CHANNELS}, False, True),
}


def run(
    *,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measure a forward and a backward pass of each form's block under each setting, over sides.

    Args:
        quick: Tiny maps: shows that everything works, and says nothing of speed.
        progress: Takes a line for each row.
        save: Takes the report after each row.

    Returns:
        The report, as JSON can hold it: "about"; "rows": form, side, N queries, and by setting the median
        "seconds" and the "peak_bytes" above weights and input; "exponents" of both over N.
    """
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick), "rows": []}
    for form in get_args(Instantiation)[: 1 if quick else None]:
        for side in _QUICK if quick else _FULL:
            works = {name: prepare(form, side, name)[1] for name in _SETTINGS}
            timings = time_together(works, min_seconds=0 if quick else 1)
            peaks = {
                name: peak_memory(f"{__name__}:prepare", {"form": form, "side": side, "setting": name})
                for name in _SETTINGS
            }
            row = {
                "form": form,
                "side": side,
                "queries": side * side,
                "seconds": {name: {"median": timing.median} for name, timing in timings.items()},
                "peak_bytes": peaks,
            }
            report["rows"].append(row)
            report["exponents"] = fit_exponents(report["rows"], 1 if quick else _FIT_FROM)
            progress(f"{form}, {side} x {side}: " + ", ".join(_cell(row, name) for name in _SETTINGS))
            save(report)
    return report


def prepare(
    form: Instantiation, side: int, setting: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the work at a tiny size and in full, for :func:`benchmarks.measure.peak_memory`."""
    return _passes(form, 8, setting), _passes(form, side, setting)


def _passes(form: Instantiation, side: int, setting: str) -> Callable[[], object]:
    """Return a forward and a backward pass over one map, which return its gradient; all is made here."""
    torch.manual_seed(0)
    made_with, is_padded, has_context = _SETTINGS[setting]
    block = NonLocal2d(CHANNELS, instantiation=form, zero_init=False, **made_with)
    x = torch.randn(1, CHANNELS, side, side, requires_grad=True)
    given: dict[str, Tensor] = {}
    if has_context:
        given["context"] = torch.randn(1, CHANNELS, side, side)
    if is_padded:
        given["key_mask"] = torch.zeros(1, side, side, dtype=torch.bool)
        given["key_mask"][:, : 3 * side // 4, : 3 * side // 4] = True

    def passes() -> Tensor | None:
        x.grad = None
        block.zero_grad()
        block(x, **given).square().sum().backward()
        return x.grad

    return passes


def _cell(row: Mapping[str, Any], name: str) -> str:
    milliseconds = 1000 * row["seconds"][name]["median"]
    return f"{milliseconds:,.1f} ms, {row['peak_bytes'][name] / 2**20:.1f} MiB"


def _answer(report: Mapping[str, Any]) -> str:
    """Return what the figures say: growth of memory, and time beside the plain block on the largest maps."""
    found = report["exponents"].values()
    exponents = [form[name]["peak_bytes"]["exponent"] for form in found for name in _SETTINGS]
    most = max(row["queries"] for row in report["rows"])
    largest = [row["seconds"] for row in report["rows"] if row["queries"] == most]
    parts = []
    for name in list(_SETTINGS)[1:]:
        ratios = [seconds[name]["median"] / seconds["plain"]["median"] for seconds in largest]
        parts.append(f"{name} {min(ratios):.1f} to {max(ratios):.1f}")
    return (
        f"Memory grows with N to the power of {min(exponents):.2f} to {max(exponents):.2f}, under every "
        f"setting and form. On the largest map, N = {most:,}, the time is of the plain block's, over the "
        f"forms: {', '.join(parts)}."
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    head = " | ".join(_SETTINGS)
    lines = [
        _answer(report),
        "",
        "    python -m benchmarks settings",
        "",
        f"One map of {CHANNELS} channels, keys sub-sampled by 2, a forward and a backward pass: median time, "
        "and peak memory above weights and input. The mask leaves three quarters of each side real, the "
        "context is a second map of the same size.",
        "",
        f"| form | N | {head} |",
        "| --- | ---: |" + " ---: |" * len(_SETTINGS),
    ]
    for row in report["rows"]:
        cells = " | ".join(_cell(row, name) for name in _SETTINGS)
        lines.append(f"| {row['form']} | {row['queries']:,} | {cells} |")
    lines += [
        "",
        f"From N = {_FIT_FROM:,} on memory grows as N to the power of (1 is linear):",
        "",
        f"| form | {head} |",
        "| --- |" + " ---: |" * len(_SETTINGS),
    ]
    for form, found in report["exponents"].items():
        shown = " | ".join(f"{found[name]['peak_bytes']['exponent']:.2f}" for name in _SETTINGS)
        lines.append(f"| {form} | {shown} |")
    facts = report["about"]
    lines += ["", f"{facts['processor']}, {facts['threads']} threads, torch {facts['versions']['torch']}."]
    return "\n".join(lines)
