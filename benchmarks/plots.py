"""``python -m benchmarks plots``: the plots of the results pages, from the JSON files beside them.

Nothing is measured. The plot of ``ops`` comes with its own command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation.picture import draw_accuracies, draw_points
from nonlocalnn.cli.flags import CommandParser

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
Rows = dict[str, list[float]]


def digits(report: Mapping[str, Any]) -> Rows:
    """Test accuracy of each form, in percent, a point a seed."""
    return {row["variant"]: [100 * value for value in row["test_accuracy"]] for row in report["rows"]}


def finetune(report: Mapping[str, Any]) -> Rows:
    """Test accuracy before and after training on, in percent, a point a seed."""
    return {name: [100 * value for value in values] for name, values in report["rows"].items()}


def attended_cue(report: Mapping[str, Any]) -> Rows:
    """Share of the answer's weight that lies on the cue, in percent, a point a network."""
    rows: Rows = {}
    for row in report["rows"]:
        block = row["block"].partition(".")[0]
        rows.setdefault(f"{row['instantiation']}, {block}", []).append(100 * row["answer to cue, share"])
        # The same for every network: the cue covers so many of a block's keys.
        rows.setdefault(f"even attention, {block}", [100 * row["answer to cue, chance"]])
    return dict(sorted(rows.items(), key=lambda pair: pair[0].startswith("even")))


def networks(report: Mapping[str, Any]) -> Rows:
    """Time of the other way, in times of ours."""
    rows = {f"{row['network']}, {row['work']}": [row["ratio"]["plain"]] for row in report["networks"]}
    for row in report["long_clips"]:
        form = row["form"].replace("_", " ")
        rows[f"long clip, {form}"] = [row["ratio"]["materialised"]]
    return rows


def ranks(report: Mapping[str, Any]) -> Rows:
    """Peak memory of each rank, in MiB."""
    return {
        f"{row['form']}, {row['num_ranks']} rank{'s' if row['num_ranks'] > 1 else ''}": [
            size / 2**20 for size in row["peak_bytes"]
        ]
        for row in report["rows"]
    }


def training(report: Mapping[str, Any]) -> Rows:
    """Samples a second, a point a training."""
    return {row["way"]: row["samples_per_second"] for row in report["rows"]}


# By file: what makes rows of its JSON, what the numbers are, and what a point is.
PLOTS: dict[str, tuple[Callable[[Mapping[str, Any]], Rows], str, str]] = {
    "digits": (digits, "test accuracy, %", "one seed"),
    "mnist": (digits, "test accuracy, %", "one seed"),
    "fashion-mnist": (digits, "test accuracy, %", "one seed"),
    "finetune": (finetune, "test accuracy, %", "one seed"),
    "attended-cue": (attended_cue, "weight of the answer's position that lies on the cue, %", "one network"),
    "models": (networks, "time of the other way, in times of ours", "one network"),
    "ranks": (ranks, "peak memory of a rank, MiB", "one rank"),
    "training": (training, "samples a second", "one training"),
}


def main(words: Sequence[str]) -> int:
    """Draw all plots.

    Args:
        words: What follows ``plots`` on the command line.
    """
    parser = CommandParser(prog="python -m benchmarks plots", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    folder = parser.parse_args(words).results
    for name, (rows_of, label, each) in PLOTS.items():
        report = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        draw_points(rows_of(report), folder / f"{name}.png", label=label, each=each)
        print(folder / f"{name}.png")
    for path in sorted(folder.glob("*/*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        scores = {row["variant"]: row["test_accuracy"] for row in rows}
        draw_accuracies(scores, path.with_suffix(".png"), score=rows[0].get("score", "accuracy"))
        print(path.with_suffix(".png"))
    return 0
