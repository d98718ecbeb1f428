"""``nonlocalnn predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nonlocalnn._files import write_text
from nonlocalnn.classifier import load_classifier
from nonlocalnn.cli.common import add_model_arguments, command_parser, progress
from nonlocalnn.evaluate import resolve_device


def run(words: Sequence[str]) -> int:
    """Predict files; status 1 when one could not be read, which is said on stderr and in its line."""
    parser = command_parser(
        "predict",
        "The most probable classes of images, or of videos by a model of videos, one JSON object a line.",
        "nonlocalnn predict digit.png more/ --model runs/digits\n"
        "  nonlocalnn predict clip.mp4 --model runs/kinetics --views 30 --top 5",
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="files, and folders of them")
    add_model_arguments(parser)
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 30),
        help="of videos: the clip in the middle, or 10 clips x 3 crops (default: 1)",
    )
    parser.add_argument("--top", type=int, default=3, help="classes to report (default: 3)")
    parser.add_argument(
        "--batch-size", type=int, help="images or views a forward pass (default: 64 images or 8 views)"
    )
    parser.add_argument("--output", type=Path, help="file for the lines (default: standard output)")
    args = parser.parse_args(words)
    loaded = load_classifier(args.model)
    loaded.model.to(resolve_device(args.device))
    paths = loaded.find(args.inputs)
    answers = loaded.predict_many(
        paths, top=args.top, views=args.views, batch_size=args.batch_size, precision=args.precision
    )
    lines, failed = [], 0
    for answer in progress(answers, total=len(paths), label="predict"):
        if "error" in answer:
            failed += 1
            print(f"nonlocalnn predict: {answer['error']}", file=sys.stderr)
        line = json.dumps(answer)
        if args.output is None:
            print(line, flush=True)
        else:
            lines.append(line)
    if args.output is not None:
        write_text(args.output, "".join(f"{line}\n" for line in lines))
    return 1 if failed else 0
