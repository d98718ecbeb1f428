"""``nonlocalnn predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nonlocalnn._files import write_text
from nonlocalnn.cli.common import add_model_arguments, command_parser, load_image_model, progress
from nonlocalnn.evaluate import resolve_device
from nonlocalnn.predict import find_images, predict


def run(words: Sequence[str]) -> int:
    """Predict image files; status 1 when one could not be read, which is said on stderr and in its line."""
    parser = command_parser(
        "predict",
        "The most probable classes of image files, one JSON object a line.",
        "nonlocalnn predict digit.png more/ --model runs/digits",
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="image files, and folders of them")
    add_model_arguments(parser)
    parser.add_argument("--top", type=int, default=3, help="classes to report (default: 3)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward pass (default: 64)")
    parser.add_argument("--output", type=Path, help="file for the lines (default: standard output)")
    args = parser.parse_args(words)
    loaded, paths, device = (
        load_image_model(args.model),
        find_images(args.inputs),
        resolve_device(args.device),
    )
    answers = predict(
        loaded.model.to(device),
        paths,
        classes=loaded.classes,
        image_size=loaded.image_size,
        channels=loaded.channels,
        batch_size=args.batch_size,
        device=device,
        precision=args.precision,
        top=args.top,
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
