"""``nonlocalnn bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nonlocalnn._files import write_text
from nonlocalnn.benchmark import ops
from nonlocalnn.benchmark.report import draw_sweep, markdown
from nonlocalnn.cli.common import command_parser
from nonlocalnn.functional import INSTANTIATIONS


def run(words: Sequence[str]) -> int:
    """Measure, and write ops.json, ops.md and ops.png; ops.json after each row."""
    parser = command_parser(
        "bench",
        "Time and peak memory of the blocks beside other ways to compute them, each checked against the\n"
        "reference first. Called again with the same output, it goes on where it was stopped. The full grid\n"
        "takes hours on a CPU.",
        "nonlocalnn bench ops --output runs/bench",
    )
    parser.add_argument("subject", choices=("ops",), help="what to measure: the blocks and their operator")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes: shows that it works, not how fast it is"
    )
    parser.add_argument(
        "--form", nargs="+", choices=INSTANTIATIONS, help="instantiations to measure (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of the results")
    args = parser.parse_args(words)
    results = args.output / "ops.json"
    earlier = None
    if results.is_file():
        earlier = json.loads(results.read_text(encoding="utf-8"))
    report = ops.run(
        quick=args.quick,
        forms=args.form,
        device=args.device,
        dtype=args.dtype,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
        save=lambda report: write_text(results, json.dumps(report, indent=1) + "\n"),
        earlier=earlier,
    )
    table = markdown(report)
    write_text(args.output / "ops.md", f"# Speed and memory of the blocks\n\n{table}\n")
    draw_sweep(report, args.output / "ops.png")
    print(table)
    print(f"results in {args.output}")
    return 0
