"""Tables in Markdown and a plot of what :func:`benchmarks.ops.run` measured."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from benchmarks.rows import Row
from nonlocalnn._errors import missing_extra
from nonlocalnn._files import atomic_path

_OTHERS = ("materialised", "repeat", "timm", "mmcv", "sdpa", "compiled", "flex", "ours compiled")
# What is ours as well, and no rival.
_OURS = ("ours compiled",)
# A fiftieth is noise.
NOISE = 1.02
_LEGEND = """\
Times are medians of single passes, with the first and third quartile. A column of another candidate holds
its time and its peak memory, both over ours: 2.0 means twice ours, and **bold** means that ours loses.
"Over floor" is our time over that of the matrix products alone. Memory is the peak above weights and input.
"materialised" is a plain block with the N x M affinity in memory, "repeat" one that holds the concatenated
pairs, "sdpa" one that calls PyTorch's attention, and "compiled" the materialised one under `torch.compile`;
"logits" is their standard deviation in the two Gaussian forms. All candidates have the same weights and equal
the reference in values and gradients."""


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown: conditions, the grid, the operator, the sweep and its exponents.

    Args:
        report: What :func:`benchmarks.ops.run` returns, or saves on its way.
    """
    parts = [conditions(report["about"]), _LEGEND]
    rows = [*report["grid"], *report["operator"], *report["sweep"]]
    parts += losses(rows)
    for section, title in (("grid", "Blocks"), ("operator", "The concatenation operator alone")):
        if report[section]:
            parts += [f"## {title}", comparison(report[section])]
    if report["sweep"]:
        parts += ["## Growth with the number of positions", comparison(report["sweep"])]
    if report["exponents"]:
        parts += [
            "Exponents p of N^p, fitted by least squares on logarithms:",
            _exponents(report["exponents"]),
        ]
    notes = _notes(rows)
    return "\n\n".join([*parts, *notes])


def check_can_draw() -> None:
    """Check that :func:`draw_sweep` can draw; to be asked before an hour of measuring.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise missing_extra("matplotlib", "bench", "the plot") from None


def draw_sweep(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw time and peak memory over N, both axes logarithmic, to a PNG file; dashed is materialised.

    Raises:
        ImportError: matplotlib is missing.
    """
    check_can_draw()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    forms = list(dict.fromkeys(row["form"] for row in report["sweep"]))
    for number, form in enumerate(forms):
        rows = [row for row in report["sweep"] if row["form"] == form]
        for name, style in (("ours", "o-"), ("materialised", "x--")):
            label = form.replace("_", " ") if name == "ours" else None
            times = [
                (row["queries"], row["seconds"][name]["median"]) for row in rows if name in row["seconds"]
            ]
            sizes = [(r["queries"], r["peak_bytes"][name] / 2**20) for r in rows if name in r["peak_bytes"]]
            for axis, points in zip(axes, (times, sizes), strict=True):
                if points:
                    axis.plot(
                        *zip(*points, strict=True), style, color=f"C{number}", label=label, markersize=4
                    )
    for axis, title in zip(axes, ("time, seconds", "peak memory, MiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="positions N", title=title)
        axis.grid(alpha=0.3)
    if axes[0].lines:
        axes[0].legend(fontsize=8)
    figure.suptitle("Forward and backward; dashed: with the N x M affinity in memory", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def conditions(about: dict[str, Any]) -> str:
    """Return when, where and with what was measured, as a line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    quick = " **Quick run at tiny shapes: these times say nothing of speed.**" if about["quick"] else ""
    return (
        f"{about['date']}, commit {about['commit'] or 'unknown'}; {versions}; {about['processor']}, "
        f"{about['threads']} threads; device {about['device']}, {about['dtype']}.{quick}"
    )


def comparison(rows: Sequence[Row]) -> str:
    """Return rows as a table: ours, and beside it each other candidate over ours."""
    others = [name for name in _OTHERS if any(name in row["seconds"] or _is_told(row, name) for row in rows)]
    # Reports from before logits were varied do not name them.
    has_logits = any("logits" in row for row in rows)
    header = [
        "form",
        "input",
        "N x M",
        *["logits"] * has_logits,
        "direction",
        "ours, ms",
        "over floor",
        "ours, MiB",
        *others,
    ]
    lines = []
    for row in rows:
        floor = row["ratio"].get("floor")
        size = row["peak_bytes"].get("ours")
        lines.append(
            [
                row["form"],
                " x ".join(map(str, row["shape"])),
                f"{row['queries']} x {row['keys']}",
                *[f"{row.get('logits', 1):g}"] * has_logits,
                row["direction"],
                _milliseconds(row),
                "" if floor is None else f"{1 / floor:.2f}",
                "" if size is None else f"{size / 2**20:.1f}",
                *(_against(row, name) for name in others),
            ]
        )
    return table(header, lines)


def _milliseconds(row: Row) -> str:
    timing = row["seconds"].get("ours")
    if timing is None:
        return row["absent"].get("ours", "")
    median, q1, q3 = (digits(1000 * timing[key]) for key in ("median", "q1", "q3"))
    return f"{median} ({q1} to {q3})"


def _against(row: Row, name: str) -> str:
    """Return another candidate's time and memory over ours, or in a word why there is none."""
    if name not in row["ratio"]:
        reason = row["absent"].get(name, "")
        return reason if reason.startswith("does not fit") else reason.partition(":")[0]
    figures = [row["ratio"][name]]
    peaks = row["peak_bytes"]
    if name in peaks and peaks.get("ours", 0) > 0:
        figures.append(peaks[name] / peaks["ours"])
    return ", ".join(
        f"**{digits(figure)}**" if figure < 1 and name not in _OURS else digits(figure) for figure in figures
    )


def fastest_rival(row: Row) -> tuple[str, float]:
    """Return the fastest other way to compute a row and its time over ours; ("", infinity) without any."""
    rivals = {name: ratio for name, ratio in row["ratio"].items() if name not in ("floor", *_OURS)}
    return min(rivals.items(), key=lambda pair: pair[1], default=("", math.inf))


def slowed_by_compiling(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row in which ours takes more time under ``torch.compile``."""
    return [
        f"{_cell(row)}: {digits(row['ratio'][name])} of its time"
        for row in rows
        for name in _OURS
        if row["ratio"].get(name, 0) > NOISE
    ]


def _cell(row: Row) -> str:
    """Return what is measured in a row, in words."""
    cell = f"{row['form']}, {' x '.join(map(str, row['shape']))}, {row['queries']} x {row['keys']}, "
    return cell + f"{row['direction']}, logits {row.get('logits', 1):g}"


def losses(rows: Sequence[Row]) -> list[str]:
    """Return paragraphs: the rows in which another candidate takes less time, or ours more when compiled."""
    lost = []
    for row in rows:
        best, ratio = fastest_rival(row)
        if ratio < 1:
            lost.append(f"- {_cell(row)}: {best} takes {digits(ratio)} of our time")
    slowed = [f"- {line}" for line in slowed_by_compiling(rows)]
    parts = [f"Ours loses in {len(lost)} of {len(rows)} rows{':' if lost else '.'}", "\n".join(lost)]
    if slowed:
        parts += [f"Under `torch.compile` ours is slower in {len(slowed)} rows:", "\n".join(slowed)]
    return [part for part in parts if part]


def _is_told(row: Row, name: str) -> bool:
    """Return whether a candidate has a reason of its own for not being timed."""
    return row["absent"].get(name, "not installed") != "not installed"


def _exponents(exponents: dict[str, Any]) -> str:
    lines = []
    for form, candidates in exponents.items():
        for name, found in candidates.items():
            cells = [
                f"{found[what]['exponent']:.2f}" if what in found else ""
                for what in ("seconds", "peak_bytes")
            ]
            over = found.get("seconds", found.get("peak_bytes"))["over"]
            lines.append([form, name, *cells, ", ".join(map(str, over))])
    return table(["form", "candidate", "time", "memory", "over N"], lines)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return a list of who is missing and why, without the sizes that stand in the tables."""
    reasons = [
        f"{name}, {row['form']}, {row['direction']}: {reason}"
        for row in rows
        for name, reason in row["absent"].items()
        if reason != "not installed" and not reason.startswith("does not fit")
    ]
    missing = dict.fromkeys(
        name for row in rows for name, reason in row["absent"].items() if reason == "not installed"
    )
    lines = [f"- not installed: {', '.join(missing)}"] if missing else []
    lines += [f"- {reason}" for reason in dict.fromkeys(reasons)]
    return ["Not measured:", "\n".join(lines)] if lines else []


def digits(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
