"""Does the position of the answer attend to what decides it? Networks of the cue task, beside chance.

    python -m benchmarks ablation cue --table instantiations --seeds 3 --output runs/ablate
    python examples/attended_cue.py runs/ablate/*/seed-*

For 100 test clips and each block: which share of the weight of the queries on the answer digit, in the last
frame, lies on the cue in the first one, and which share uniform attention would put there; the same from the
cue to the answer digit, since a network may carry the answer either way; and what the answer's probability
loses without the positions that the block attends to most, and least. Writes
``runs/attended-cue.json``. About half a minute a network.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nonlocalnn as nl
from nonlocalnn.affinity import AffinityMap, EffectMap, PositionGrid, class_effects
from nonlocalnn.data import load_dataset
from nonlocalnn.explorer.deletion import deletion_test
from nonlocalnn.inference.classifier import Classifier

OUTPUT, NUM_CLIPS, FRACTIONS = Path("runs/attended-cue.json"), 100, (0.1, 0.2)
# Noise is darker: below a quarter of white.
BRIGHT = 0.3


def main() -> None:
    """Measure every network named and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    found = []
    for run in args.runs:
        loaded = nl.load_classifier(run)
        found += [{"run": f"{run.parent.name}/{run.name}", **row} for row in measure(loaded)]
    report = {"clips": NUM_CLIPS, "rows": found}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{attention_table(report)}\n\n{deletion_table(report)}")


def measure(loaded: Classifier) -> list[dict[str, object]]:
    """Return the means over the clips, one row a block."""
    clips = load_dataset("cue", "test")
    numbers: dict[str, list[dict[str, float]]] = {}
    forms, right = {}, 0
    for index in range(NUM_CLIPS):
        clip, target = clips[index]
        cue, answer = squares(clip)
        right += int(loaded.model(clip[None]).argmax()) == target
        for name, effects in class_effects(loaded.model, clip[None]).items():
            forms[name] = effects.weights.instantiation
            numbers.setdefault(name, []).append(shares(effects, cue, answer))
        for each in deletion_test(loaded, clip, fractions=FRACTIONS, num_random=5, seed=index):
            last = numbers[each.block][-1]
            percent = f"{each.fraction:.0%}"
            last[f"without most {percent}"] = each.most
            last[f"without least {percent}"] = each.least
            assert each.gradient is not None
            last[f"without gradient {percent}"] = each.gradient
            last[f"without random {percent}"] = statistics.fmean(each.random)
    return [
        {
            "block": name,
            "instantiation": forms[name],
            "accuracy": right / NUM_CLIPS,
            **{key: statistics.fmean(clip[key] for clip in rows) for key in rows[0]},
        }
        for name, rows in numbers.items()
    ]


def squares(clip: Tensor) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the boxes of the cue and of the digit in its colour: (from, to) in rows and in columns."""
    cue = clip[:, 0] > BRIGHT
    colour = cue.flatten(1).any(1)
    digit = (clip[:, -1] > BRIGHT)[colour].all(0) & ~(clip[:, -1] > BRIGHT)[~colour].any(0)
    boxes = []
    for mask in (cue.any(0), digit):
        places = mask.nonzero()
        boxes.append(list(zip(places.amin(0).tolist(), (places.amax(0) + 1).tolist(), strict=True)))
    return boxes[0], boxes[1]


def shares(effects: EffectMap, cue: list[tuple[int, int]], answer: list[tuple[int, int]]) -> dict[str, float]:
    """Return the shares of one block for one clip."""
    shown = effects.weights
    last = shown.grid.input_sides[0] - 1
    found = {}
    ways = {"answer to cue": ((last, answer), (0, cue)), "cue to answer": ((0, cue), (last, answer))}
    for way, (start, end) in ways.items():
        queries = [place for place in shown.all_queries() if is_at(shown.grid, place, *start)]
        whole_frame = [(0, side) for side in shown.grid.input_sides[1:]]
        keys, keys_of_frame = touching(shown, *end), touching(shown, end[0], whole_frame)
        rows, acting = shown.rows(queries)[0].abs(), effects.rows(queries)[0].abs()
        found |= {
            f"{way}, share": share(rows, keys),
            f"{way}, chance": float(keys.float().mean()),
            f"{way}, share of the frame": share(rows, keys_of_frame),
            f"{way}, chance of the frame": float(keys_of_frame.float().mean()),
            f"{way}, strongest": float(keys.flatten()[rows.mean(0).flatten().argmax()]),
            f"{way}, share of effect": share(acting, keys),
        }
    return found


def is_at(grid: PositionGrid, place: tuple[int, ...], frame: int, square: list[tuple[int, int]]) -> bool:
    """Return whether a position's centre is in a square of a frame."""
    (start, end), *_ = grid.box(*place)
    _, *centre = grid.centre(*place)
    return start <= frame + 0.5 < end and all(
        low <= at < high for at, (low, high) in zip(centre, square, strict=True)
    )


def touching(shown: AffinityMap, frame: int, square: list[tuple[int, int]]) -> Tensor:
    """Return which keys' boxes hold a frame and any of a square in it."""
    grid = shown.key_grid
    mask = torch.zeros(grid.sides, dtype=torch.bool)
    for place in torch.ones(grid.sides).nonzero().tolist():
        (start, end), *sides = grid.box(*place)
        mask[tuple(place)] = start <= frame + 0.5 < end and all(
            low < high_edge and low_edge < high
            for (low_edge, high_edge), (low, high) in zip(sides, square, strict=True)
        )
    return mask


def share(rows: Tensor, mask: Tensor) -> float:
    """Return which share of all the rows' weight is on some keys."""
    return float(rows[:, mask].sum() / rows.sum().clamp(min=1e-12))


def attention_table(report: Mapping[str, Any]) -> str:
    """Return, a row a network and block, where the weight lies, each share beside what chance gives."""
    lines = [
        "| form | seed | accuracy | block | answer to cue | of the effect | cue to answer | of the effect |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        cells = [
            row["instantiation"],
            row["run"].rpartition("-")[2],
            f"{row['accuracy']:.2f}",
            row["block"].partition(".")[0],
        ]
        for way in ("answer to cue", "cue to answer"):
            cells.append(f"{row[f'{way}, share']:.3f} ({row[f'{way}, chance']:.3f})")
            cells.append(f"{row[f'{way}, share of effect']:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def deletion_table(report: Mapping[str, Any]) -> str:
    """Return, a row a form and block, the change of the probability, mean over seeds and (least, largest)."""
    names = {
        "most": "without the most attended 10 %",
        "least": "without the least",
        "gradient": "without the gradient's",
        "random": "without a random 10 %",
    }
    # Reports from before the gradient was a rival lack it.
    names = {which: name for which, name in names.items() if f"without {which} 10%" in report["rows"][0]}
    lines = [
        f"| form | block | {' | '.join(names.values())} |",
        f"| --- | --- |{' ---: |' * len(names)}",
    ]
    for form, block in dict.fromkeys((row["instantiation"], row["block"]) for row in report["rows"]):
        rows = [row for row in report["rows"] if (row["instantiation"], row["block"]) == (form, block)]
        cells = [form, block.partition(".")[0]]
        for which in names:
            values = [row[f"without {which} 10%"] for row in rows]
            cells.append(f"{statistics.fmean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
