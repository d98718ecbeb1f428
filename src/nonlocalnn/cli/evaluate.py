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
from nonlocalnn._names import VIDEO_SETS
from nonlocalnn._progress import progress
from nonlocalnn.cli.common import check_classes, load_model
from nonlocalnn.cli.flags.evaluate import parser
from nonlocalnn.cli.outputs import check_folder
from nonlocalnn.explorer import draw_confusion
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
    data = args.data or loaded.recipe.get("data")
    if data is None:
        parser().error("--data is needed: the checkpoint does not say what it was trained on")
    output = _beside(args.model, f"evaluation-{data}-{args.split}") if args.output is None else args.output
    check_folder(output)
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir, **_given(args, data))
    about = {
        "model": str(args.model),
        "data": data,
        "data_dir": None if args.data_dir is None else str(args.data_dir),
        "split": args.split,
    }
    _check_own(output, {**about, "views": dataset.views})
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
    write_text(output / _REPORT, json.dumps({**about, **found.to_dict()}, indent=2) + "\n")
    if isinstance(found, Evaluation) and len(found.classes) <= _MOST_CLASSES_SHOWN:
        draw_confusion(found.confusion, found.classes, output / _PICTURE)
        print(found.per_class_table())
    print(found.describe(f"{data}/{args.split}"))
    print(f"results  {output}")
    return 0


def _beside(model: Path, name: str) -> Path:
    """Return a folder in a run's, or beside a checkpoint and named after it as well."""
    # Several checkpoints may lie in one folder, and their results must not overwrite one another.
    return model / name if model.is_dir() else model.with_name(f"{model.stem}-{name}")


def _check_own(output: Path, about: dict[str, Any]) -> None:
    """Check that a folder holds no result but an earlier one of the same evaluation."""
    report = output / _REPORT
    there = [name for name in (_REPORT, _PICTURE) if (output / name).exists()]
    if not there:
        return
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        is_evaluation = {"model", "data", "split"} <= found.keys()
    except (OSError, ValueError, AttributeError):
        is_evaluation = False
    if not is_evaluation:
        raise ValueError(
            f"{output} holds a {there[0]} that evaluate did not write, such as a training's: choose another "
            "--output"
        )
    for name, value in about.items():
        was = found.get(name)
        if name in ("model", "data_dir"):
            # Reports of before 0.1.0 say no folder of the data.
            is_same = name not in found or _resolved(was) == _resolved(value)
        else:
            is_same = was == value
        if not is_same:
            raise ValueError(
                f"{output} holds the result of another evaluation, whose {name} was {was!r} and is {value!r} "
                "now: choose another --output"
            )


def _resolved(path: str | None) -> Path | None:
    return None if path is None else Path(path).resolve()


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
