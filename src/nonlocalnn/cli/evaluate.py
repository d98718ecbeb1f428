"""``nonlocalnn evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nonlocalnn._files import write_text
from nonlocalnn._progress import progress
from nonlocalnn.cli.common import add_model_arguments, check_classes, command_parser, load_model
from nonlocalnn.data import VIDEO_SETS, list_datasets
from nonlocalnn.data.video import BACKENDS
from nonlocalnn.explorer import draw_confusion
from nonlocalnn.tasks.evaluation import evaluate
from nonlocalnn.tasks.figures import Evaluation

# A table and a picture of more classes are too large to be read.
_MOST_CLASSES_SHOWN = 60


def run(words: Sequence[str]) -> int:
    """Evaluate a checkpoint on a data set; write metrics.json and confusion.png."""
    parser = _parser()
    args = parser.parse_args(words)
    loaded = load_model("evaluate", args.model, device=args.device)
    data = args.data or loaded.recipe.get("data")
    if data is None:
        parser.error("--data is needed: the checkpoint does not say what it was trained on")
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir, **_given(args, data))
    assumption = check_classes(loaded, dataset.classes, data)
    if assumption:
        print(f"nonlocalnn evaluate: {assumption}", file=sys.stderr)
    with _broken_ones_listed_below():
        found = evaluate(
            loaded.model,
            dataset,
            batch_size=args.batch_size,
            device=loaded.device,
            precision=args.precision,
            num_workers=args.num_workers,
            watch=lambda batches: progress(batches, total=len(batches), label="evaluate"),
        )
    for name in found.unreadable:
        print(f"nonlocalnn evaluate: left out, cannot be read: {name}", file=sys.stderr)
    report = {"model": str(args.model), "data": data, "split": args.split, **found.to_dict()}
    write_text(args.output / "metrics.json", json.dumps(report, indent=2) + "\n")
    if isinstance(found, Evaluation) and len(found.classes) <= _MOST_CLASSES_SHOWN:
        draw_confusion(found.confusion, found.classes, args.output / "confusion.png")
        print(found.per_class_table())
    print(found.describe(f"{data}/{args.split}"))
    print(f"results  {args.output}")
    return 0


def _given(args: argparse.Namespace, data: str) -> dict[str, Any]:
    """Return the settings of reading that were given; videos are looked at by 30 views unless told."""
    given = {name: getattr(args, name) for name in ("views", "decoder", "max_broken")}
    if data in VIDEO_SETS and args.views is None:
        given["views"] = 30
    return {name: value for name, value in given.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "evaluate",
        "Accuracy, recall and precision of each class, and the confusion matrix; of videos that may show\n"
        "several classes mean average precision.",
        "nonlocalnn evaluate --model runs/digits --data digits --output runs/digits/evaluation\n"
        "  nonlocalnn evaluate --model runs/kinetics --data kinetics --data-dir data/kinetics --views 30",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        choices=list_datasets(),
        help="default: what the model was trained on",
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="default: test"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="samples a forward pass (default: 256), or views of videos (default: 8)",
    )
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read (default: 0)")
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 30),
        help="of videos: the clip in the middle, or 10 clips x 3 crops (default: 30)",
    )
    parser.add_argument("--decoder", choices=BACKENDS, help="of videos: what decodes (default: pyav)")
    parser.add_argument(
        "--max-broken",
        type=int,
        help="of videos and images: up to how many that cannot be read are left out (default: 0)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/evaluation"), help="folder of the results")
    return parser


@contextmanager
def _broken_ones_listed_below() -> Iterator[None]:
    """Hold back the warnings of broken files: they are listed afterwards, once and in order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left out: ")
        yield
