"""``nonlocalnn evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nonlocalnn._files import write_text
from nonlocalnn._progress import progress
from nonlocalnn.classifier import Classifier
from nonlocalnn.cli.common import (
    add_model_arguments,
    check_classes,
    command_parser,
    load_model,
    load_samples,
)
from nonlocalnn.data import IMAGE_SETS, list_datasets
from nonlocalnn.data.video import BACKENDS
from nonlocalnn.data.video_named import VIDEO_SETS, load_video_set
from nonlocalnn.data.video_sampling import choose_sampling
from nonlocalnn.data.video_sets import VideoClips
from nonlocalnn.evaluate import Evaluation, evaluate
from nonlocalnn.explorer import draw_confusion
from nonlocalnn.video_evaluation import evaluate_videos
from nonlocalnn.video_figures import VideoEvaluation

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
    found = (_evaluate_videos if data in VIDEO_SETS else _evaluate_samples)(args, loaded, data)
    report = {"model": str(args.model), "data": data, "split": args.split, **found.to_dict()}
    write_text(args.output / "metrics.json", json.dumps(report, indent=2) + "\n")
    figures = found.figures if isinstance(found, VideoEvaluation) else found
    if isinstance(figures, Evaluation) and len(figures.classes) <= _MOST_CLASSES_SHOWN:
        draw_confusion(figures.confusion, figures.classes, args.output / "confusion.png")
        print(figures.per_class_table())
    source = f"{data}/{args.split}"
    if isinstance(found, VideoEvaluation):
        print(found.describe(source))
    else:
        print(f"accuracy {found.accuracy:.4f} on {found.num_samples} samples of {source}")
    print(f"results  {args.output}")
    return 0


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
        choices=[*list_datasets(), *VIDEO_SETS],
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


def _evaluate_samples(args: argparse.Namespace, loaded: Classifier, data: str) -> Evaluation:
    for name in ("views", "decoder"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is a setting of videos, and {data!r} has none: leave it out"
            )
    if args.max_broken is not None and data not in IMAGE_SETS:
        raise ValueError(
            f"--max-broken is a setting of videos and image folders, and {data!r} is neither: leave it out"
        )
    dataset = load_samples(
        loaded,
        data,
        args.split,
        data_dir=args.data_dir or loaded.recipe.get("data_dir"),
        max_broken=0 if args.max_broken is None else args.max_broken,
    )
    _say(check_classes(loaded, dataset.classes, data))
    with _broken_ones_listed_below():
        found = evaluate(
            loaded.model,
            dataset,
            batch_size=256 if args.batch_size is None else args.batch_size,
            device=loaded.device,
            precision=args.precision,
            num_workers=args.num_workers,
            prepare=loaded.normalized,
        )
    _list_unreadable(found.unreadable)
    return found


@contextmanager
def _broken_ones_listed_below() -> Iterator[None]:
    """Hold back the warnings of broken files: they are listed afterwards, once and in order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left out: ")
        yield


def _list_unreadable(names: Sequence[str]) -> None:
    for name in names:
        print(f"nonlocalnn evaluate: left out, cannot be read: {name}", file=sys.stderr)


def _say(assumption: str) -> None:
    if assumption:
        print(f"nonlocalnn evaluate: {assumption}", file=sys.stderr)


def _evaluate_videos(args: argparse.Namespace, loaded: Classifier, data: str) -> VideoEvaluation:
    if not loaded.takes_videos:
        raise ValueError(
            f"{data!r} has videos, and the model was trained on samples of shape {loaded.sample_shape}"
        )
    videos = load_video_set(data, args.split, data_dir=args.data_dir or loaded.recipe.get("data_dir"))
    _say(check_classes(loaded, videos.classes, data))
    if videos.multi_label != loaded.multi_label and "multi_label" not in loaded.assumed:
        several = {True: "several classes a video", False: "one class a video"}
        raise ValueError(
            f"the model has learnt {several[loaded.multi_label]}; {data} has {several[videos.multi_label]}"
        )
    dataset = VideoClips(
        videos,
        frames=loaded.sample_shape[1],
        stride=loaded.stride,
        sampling=choose_sampling(30 if args.views is None else args.views, size=loaded.video_size),
        backend="pyav" if args.decoder is None else args.decoder,
        max_broken=0 if args.max_broken is None else args.max_broken,
        mean=loaded.mean,
        standard_deviation=loaded.standard_deviation,
    )
    with _broken_ones_listed_below():
        found = evaluate_videos(
            loaded.model,
            dataset,
            batch_size=8 if args.batch_size is None else args.batch_size,
            device=loaded.device,
            precision=args.precision,
            num_workers=args.num_workers,
            watch=lambda batches: progress(batches, total=len(batches), label="evaluate"),
        )
    _list_unreadable(found.unreadable)
    return found
