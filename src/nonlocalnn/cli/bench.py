"""``nonlocalnn bench``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nonlocalnn._files import write_text
from nonlocalnn.benchmark import models, models_report, ops
from nonlocalnn.benchmark.report import draw_sweep, markdown
from nonlocalnn.cli.common import command_parser
from nonlocalnn.functional import INSTANTIATIONS


def run(words: Sequence[str]) -> int:
    """Measure, and write the results: their JSON after each row."""
    parser = command_parser(
        "bench",
        "Time and peak memory of the blocks beside other ways to compute them, each checked against the\n"
        "reference first; or of whole video networks, as they are usually run and torchvision's beside, and\n"
        "the time of reading clips. 'ops', called again with the same output, goes on where it was stopped;\n"
        "its full grid takes an hour on a CPU.",
        "nonlocalnn bench ops --output runs/bench\n  nonlocalnn bench models",
    )
    parser.add_argument(
        "subject",
        choices=("ops", "models"),
        help="what to measure: blocks and their operator, or networks and reading clips",
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
        table = _models(args)
    print(table)
    print(f"results in {args.output}")
    return 0


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _ops(args: argparse.Namespace) -> str:
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


def _models(args: argparse.Namespace) -> str:
    results = args.output / "models.json"
    report = models.run(
        quick=args.quick,
        progress=_progress,
        save=lambda report: write_text(results, json.dumps(report, indent=1) + "\n"),
    )
    table = models_report.markdown(report)
    write_text(args.output / "models.md", f"# Speed and memory of the networks\n\n{table}\n")
    return table
