"""Tables in Markdown of what :func:`benchmarks.models.run` measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.report import conditions, digits, table
from benchmarks.rows import Row

_LEGEND = """\
Times are medians of single passes, with the first and third quartile; a training step is forward and
backward, without an optimiser. A clip is frames x height x width. Memory is the peak above weights and input,
in a process of its own. FLOPs are 2 x multiply-adds. **Bold** is where ours loses."""
_NETWORKS = """\
"Plain" is the same network as it is usually run: 3D convolutions on clips in the default layout, norms as
they stand. "Ours" has clips and weights in `channels_last_3d` and, for inference, norms folded into
convolutions. Weights are the same, and outputs are equal up to rounding."""
_OTHERS = """\
The same work in other ways: their time over ours, so that more than 1 is slower than ours. "Compiled" is the
network with blocks that hold the affinity, in `channels_last_3d`, under `torch.compile`; the two engines run
ours as ONNX; "ours, bfloat16" is ours under autocast, whose difference is of the largest output."""
_TORCHVISION = """\
torchvision's networks at the size that their weights were trained at, in the default layout. Networks of
unlike size are compared by GFLOPs a second, for which a training step counts as three forward passes: more is
better."""
_LONG = """\
A training step of a network whose blocks see all frames of the map of `layer2` at once, without sub-sampling.
"Materialised" is the same network, in the same layout, whose blocks hold the N x M affinity. Each was timed
once, after a pass that was not. Memory is that of the whole step, of which all but the blocks' is the same in
both; the blocks alone are in [speed and memory of the blocks](ops.md)."""
_DECODING = """\
A clip is 8 frames of stride 8 at a random place of a generated H.264 video of 30 frames a second. "Original"
has the encoder's own keyframes, up to 250 frames apart; "shrunk" is what `nonlocalnn data shrink` makes of
it, with one every 32 frames. Each clip opens the file, as the data set does, and frames a second include
that. "Loader" is a `DataLoader` with two processes that also scale, cut and normalise clips for training.
Files were in the system's cache."""


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown: conditions, and a table for each section that was measured.

    Args:
        report: What :func:`benchmarks.models.run` returns, or saves on its way.
    """
    networks, others = report["networks"], report["torchvision"]
    sections = (
        ("Beside the plain way", _NETWORKS, networks, _beside),
        ("Beside other ways", _OTHERS, [row for row in networks if set(row["ratio"]) > {"plain"}], _others),
        ("Per FLOP, beside torchvision", _TORCHVISION, [*networks, *others] if others else [], _per_flop),
        ("Long clips without sub-sampling", _LONG, report["long_clips"], _long),
        ("Decoding", _DECODING, report["decoding"], _decoding),
    )
    parts = [conditions(report["about"]), _LEGEND]
    for title, words, rows, write in sections:
        if rows:
            parts += [f"## {title}", words, write(rows)]
    reasons = {**report["absent"], **_absent_backends(report["decoding"])}
    notes = [f"- {what}: {reason}" for what, reason in reasons.items()]
    return "\n\n".join([*parts, "Not measured:", "\n".join(notes)] if notes else parts)


def _beside(rows: Sequence[Row]) -> str:
    header = ["network", "work", "ours, ms", "plain, ms", "plain / ours"]
    header += ["ours, clips a second", "plain, clips a second", "ours, MiB", "plain, MiB"]
    return table(
        header,
        [
            [
                row["network"],
                row["work"],
                *(_of(row, "seconds", way, _milliseconds) for way in ("ours", "plain")),
                _of(row, "ratio", "plain", _ratio),
                *(_of(row, "clips_per_second", way, digits) for way in ("ours", "plain")),
                *(_of(row, "peak_bytes", way, _mebibytes) for way in ("ours", "plain")),
            ]
            for row in rows
        ],
    )


def _others(rows: Sequence[Row]) -> str:
    ways = list(dict.fromkeys(way for row in rows for way in (*row["ratio"], *row["absent"])))
    lines = []
    for row in rows:
        narrow = row["error"].get("ours, bfloat16")
        cells = [_of(row, "ratio", way, _ratio) for way in ways]
        lines.append([row["network"], row["work"], *cells, "" if narrow is None else f"{narrow:.1e}"])
    return table(["network", "work", *ways, "difference of bfloat16"], lines)


def _per_flop(rows: Sequence[Row]) -> str:
    header = ["network", "way", "work", "clip", "GFLOPs a clip", "clips a second", "GFLOPs a second", "MiB"]
    # The fastest of torchvision's at the same work; only it has no way of ours.
    best: dict[str, float] = {}
    for row in rows:
        if "ours" not in row["seconds"]:
            best[row["work"]] = max(best.get(row["work"], 0.0), row["gflops_per_second"]["plain"])
    lines = []
    for row in rows:
        for way, rate in row["gflops_per_second"].items():
            loses = way == "ours" and rate < best.get(row["work"], 0.0)
            lines.append(
                [
                    row["network"],
                    way,
                    row["work"],
                    " x ".join(map(str, row["clip"][1:])),
                    digits(row["gflops"][way]),
                    digits(row["clips_per_second"][way]),
                    f"**{digits(rate)}**" if loses else digits(rate),
                    _of(row, "peak_bytes", way, _mebibytes),
                ]
            )
    return table(header, lines)


def _long(rows: Sequence[Row]) -> str:
    header = [
        "network",
        "clip",
        "form of its blocks",
        "ours, MiB",
        "materialised, MiB",
        "materialised / ours",
    ]
    header += ["ours, seconds", "materialised, seconds", "materialised / ours"]
    lines = []
    for row in rows:
        peaks = row["peak_bytes"]
        both = "ours" in peaks and "materialised" in peaks
        lines.append(
            [
                row["network"],
                " x ".join(map(str, row["clip"][1:])),
                str(row["form"]).replace("_", " "),
                *(_of(row, "peak_bytes", way, _mebibytes) for way in ("ours", "materialised")),
                _ratio(peaks["materialised"] / peaks["ours"]) if both else "",
                *(
                    _of(row, "seconds", way, lambda timing: digits(timing["median"]))
                    for way in ("ours", "materialised")
                ),
                _of(row, "ratio", "materialised", _ratio),
            ]
        )
    return table(header, lines)


def _decoding(rows: Sequence[Row]) -> str:
    header = ["file", "KiB", "backend", "a clip, ms", "of it opening, ms", "frames a second"]
    header += ["loader, clips a second"]
    lines = []
    for row in rows:
        if "absent" in row:
            continue
        cells = [row["file"], f"{row['bytes'] / 2**10:.0f}", row["backend"]]
        cells += [_milliseconds(row["seconds"]), _milliseconds(row["opening"])]
        lines.append([*cells, digits(row["frames_per_second"]), digits(row["clips_per_second"])])
    return table(header, lines)


def _absent_backends(rows: Sequence[Row]) -> dict[str, str]:
    return {row["backend"]: row["absent"] for row in rows if "absent" in row}


def _of(row: Row, what: str, way: str, show: Callable[[Any], str]) -> str:
    """Return a figure of one way, or why there is none."""
    return show(row[what][way]) if way in row[what] else row["absent"].get(way, "")


def _milliseconds(timing: dict[str, float]) -> str:
    median, q1, q3 = (digits(1000 * timing[key]) for key in ("median", "q1", "q3"))
    return f"{median} ({q1} to {q3})"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}"


def _ratio(ratio: float) -> str:
    return f"**{digits(ratio)}**" if ratio < 1 else digits(ratio)
