"""Which colours does a network of the cue task confuse? Its accuracy for each pair of them.

    python -m benchmarks ablation cue --config cue-tiny --table forms --output runs/ablate
    python examples/cue_colours.py runs/ablate/*/seed-*

A clip shows two digits of two colours, and the one in the cue's colour is the answer. A network that cannot
tell two colours apart is right on half of the clips that show both, and on all others. Over all test clips;
a few seconds a network. Writes ``runs/cue-colours.json``.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import nonlocalnn as nl
from nonlocalnn.data import load_dataset
from nonlocalnn.data.cue import COLOURS

OUTPUT, BATCH = Path("runs/cue-colours.json"), 50


def main() -> None:
    """Measure every network named and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    rows = [{"run": f"{run.parent.name}/{run.name}", "accuracy": pairs(run)} for run in args.runs]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(table(rows))


def pairs(run: Path) -> dict[str, float]:
    """Return the accuracy on the clips with two colours, whichever is the cue's, by the names of both."""
    clips = load_dataset("cue", "test")
    samples = torch.stack([clips.read(number) for number in range(len(clips))])
    answers = nl.load_classifier(run).ask(samples, batch_size=BATCH).argmax(1).tolist()
    right: dict[str, list[bool]] = {}
    for number, answer in enumerate(answers):
        pair = " and ".join(COLOURS[colour] for colour in sorted(clips.scene(number).colours))
        right.setdefault(pair, []).append(answer == clips.targets[number])
    return {pair: sum(found) / len(found) for pair, found in sorted(right.items())}


def table(rows: list[Mapping[str, Any]]) -> str:
    """Return the accuracies in %, a row a network."""
    names = list(rows[0]["accuracy"])
    lines = [f"| network | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for row in rows:
        cells = [f"{100 * row['accuracy'][name]:.0f}" for name in names]
        # What learnt the colours apart is right on nine clips of ten.
        cells = [f"**{cell}**" if float(cell) < 90 else cell for cell in cells]
        lines.append(f"| {row['run']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
