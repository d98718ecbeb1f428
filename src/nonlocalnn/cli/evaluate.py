"""``nonlocalnn evaluate``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nonlocalnn._names import VIDEO_SETS
from nonlocalnn._progress import progress
from nonlocalnn.cli import detection, segmentation
from nonlocalnn.cli.answers import evaluation_of, say_classes, write_report
from nonlocalnn.cli.common import check_own, load_model
from nonlocalnn.cli.flags.evaluate import parser
from nonlocalnn.cli.outputs import check_folder
from nonlocalnn.explorer import draw_confusion
from nonlocalnn.inference import Detector, Segmenter
from nonlocalnn.tasks.evaluation import evaluate
from nonlocalnn.tasks.figures import Evaluation

# A table and a picture of more classes are too large to be read.
_MOST_CLASSES_SHOWN = 60
_REPORT, _PICTURE = "metrics.json", "confusion.png"


def run(words: Sequence[str]) -> int:
    """Evaluate a checkpoint on a data set; write metrics.json and confusion.png."""
    args = parser().parse_args(words)
    if args.output is not None:
        check_folder(args.output)
    loaded = load_model("evaluate", args.model, device=args.device)
    if isinstance(loaded, Segmenter):
        return segmentation.evaluate(args, loaded)
    if isinstance(loaded, Detector):
        return detection.evaluate(args, loaded)
    if args.window is not None:
        raise ValueError("--window is a setting of segmentation networks; this one is none: leave it out")
    data = args.data or loaded.recipe.get("data")
    if data is None:
        parser().error("--data is needed: the checkpoint does not say what it was trained on")
    output, about = evaluation_of(args, loaded.recipe)
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir, **_given(args, data))
    check_own(output, {**about, "views": dataset.views}, files=(_REPORT, _PICTURE))
    say_classes(loaded.classes, dataset.classes, data)
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
    is_readable = isinstance(found, Evaluation) and len(found.classes) <= _MOST_CLASSES_SHOWN
    status = write_report(output, about, found, table=is_readable)
    if isinstance(found, Evaluation) and is_readable:
        draw_confusion(found.confusion, found.classes, output / _PICTURE)
    return status


def _given(args: argparse.Namespace, data: str) -> dict[str, Any]:
    """Return the settings of reading that were given; videos are looked at by 30 views unless told."""
    # So many make the figures that the paper and its successors report.
    given = {name: getattr(args, name) for name in ("views", "decoder", "max_broken")}
    if data in VIDEO_SETS and args.views is None:
        given["views"] = 30
    return {name: value for name, value in given.items() if value is not None}


@contextmanager
def _broken_ones_listed_below() -> Iterator[None]:
    """Hold back the warnings of broken files: they are listed afterwards, once and in order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left out: ")
        yield
