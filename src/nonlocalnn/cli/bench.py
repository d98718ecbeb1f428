"""``nonlocalnn bench``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nonlocalnn._files import write_text
from nonlocalnn.benchmark import maps, models, models_report, ops, ranks, training
from nonlocalnn.benchmark.report import check_can_draw, draw_sweep, markdown
from nonlocalnn.cli.common import command_parser
from nonlocalnn.functional import INSTANTIATIONS


def run(words: Sequence[str]) -> int:
    """Measure, and write the results: their JSON after each row."""
    parser = command_parser(
        "bench",
        "Time and peak memory of the blocks beside other ways to compute them, each checked against the\n"
        "reference first; or of whole video networks, as they are usually run and torchvision's beside, and\n"
        "the time of reading clips; or of looking at a map too large to hold; or of a block whose positions\n"
        "are split over processes; or of trainings on one process and on two. 'ops', called again with the\n"
        "same output, goes on where it was stopped; its full grid takes an hour on a CPU.",
        "nonlocalnn bench ops --output runs/bench\n  nonlocalnn bench models\n  nonlocalnn bench maps",
    )
    parser.add_argument(
        "subject",
        choices=("ops", *_SUBJECTS),
        help="what to measure: blocks and their operator; networks and reading clips; rows of a large map; "
        "positions split over processes; training on processes",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes: shows that it works, not how fast it is"
    )
    parser.add_argument(
        "--form", nargs="+", choices=INSTANTIATIONS, help="ops: instantiations to measure (default: all)"
    )
    parser.add_argument("--device", help="ops: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="ops: default float32")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of the results")
    args = parser.parse_args(words)
    if args.subject == "ops":
        table = _ops(args)
    else:
        for name in ("form", "device", "dtype"):
            if getattr(args, name) is not None:
                parser.error(f"--{name} is a setting of 'ops'")
        table = _whole(args)
    print(table)
    print(f"results in {args.output}")
    return 0


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _ops(args: argparse.Namespace) -> str:
    check_can_draw()
    results = args.output / "ops.json"
    earlier = None
    if results.is_file():
        earlier = json.loads(results.read_text(encoding="utf-8"))
    report = ops.run(
        quick=args.quick,
        forms=args.form,
        device=args.device or "cpu",
        dtype=args.dtype or "float32",
        progress=_progress,
        save=lambda report: write_text(results, json.dumps(report, indent=1) + "\n"),
        earlier=earlier,
    )
    table = markdown(report)
    write_text(args.output / "ops.md", f"# Speed and memory of the blocks\n\n{table}\n")
    draw_sweep(report, args.output / "ops.png")
    return table


_TITLES = {
    "models": "Speed and memory of the networks",
    "maps": "Looking at large maps",
    "ranks": "Positions split over processes",
    "training": "Training on one process and on two",
}
_SUBJECTS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "models": (models.run, models_report.markdown),
    "maps": (maps.run, maps.markdown),
    "ranks": (ranks.run, ranks.markdown),
    "training": (training.run, training.markdown),
}


def _whole(args: argparse.Namespace) -> str:
    """Measure a subject from its beginning to its end; its report is saved after each row."""
    measure, table_of = _SUBJECTS[args.subject]
    results = args.output / f"{args.subject}.json"
    report = measure(
        quick=args.quick,
        progress=_progress,
        save=lambda report: write_text(results, json.dumps(report, indent=1) + "\n"),
    )
    table = table_of(report)
    write_text(args.output / f"{args.subject}.md", f"# {_TITLES[args.subject]}\n\n{table}\n")
    return table
