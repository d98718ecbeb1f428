"""``nonlocalnn predict``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Literal

from nonlocalnn._progress import progress
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.cli import detection, segmentation
from nonlocalnn.cli.answers import write_lines
from nonlocalnn.cli.common import is_classifier, load_model
from nonlocalnn.cli.flags.predict import parser
from nonlocalnn.cli.outputs import check_file, check_folder
from nonlocalnn.inference import Classifier, Detector, Segmenter
from nonlocalnn.inference.bulk import predict_list

_OF_LISTS = ("output_folder", "root", "part_size", "num_workers", "engine", "workers")
# Where torchrun and srun say how many processes they have started alike.
_COPIES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_MOST_NAMED = 10


def run(words: Sequence[str]) -> int:
    """Predict files; status 1 when one could not be read, which is said on stderr and in its line."""
    args = parser().parse_args(words)
    if args.list is not None:
        if args.inputs or args.output is not None:
            parser().error(
                "--list takes its files from the list and writes to --output-folder: leave out "
                + ("INPUT" if args.inputs else "--output")
            )
        if args.output_folder is None:
            parser().error("--list needs --output-folder")
        check_folder(args.output_folder, flag="--output-folder")
        if not is_classifier(args.model):
            raise ValueError("--list is for classifiers; of others name the images, or their folder")
        _complete(args)
        return _predict_list(args)
    if not args.inputs:
        parser().error("the following arguments are required: inputs (or --list)")
    # Wrong calls are refused before the model is looked at; a folder of pictures is a setting of one kind.
    for name in _OF_LISTS:
        if getattr(args, name) is not None and not (args.model.exists() and name == "output_folder"):
            parser().error(f"--{name.replace('_', '-')} is a setting of --list: leave it out")
    if args.output is not None:
        check_file(args.output)
    loaded = load_model("predict", args.model, device=args.device)
    if isinstance(loaded, Segmenter):
        return segmentation.predict(args, loaded)
    if isinstance(loaded, Detector):
        return detection.predict(args, loaded)
    if args.output_folder is not None:
        parser().error("--output-folder is a setting of --list: leave it out")
    _complete(args)
    return _predict_inputs(args, loaded)


def _complete(args: argparse.Namespace) -> None:
    """Fill in what is left open for classifiers.

    Raises:
        ValueError: A setting has no effect on them.
    """
    if args.window is not None:
        raise ValueError("--window is a setting of segmentation networks; this one is none: leave it out")
    if args.min_score is not None:
        raise ValueError("--min-score is a setting of detectors; this one is none: leave it out")
    args.top = 3 if args.top is None else args.top


def _predict_inputs(args: argparse.Namespace, loaded: Classifier) -> int:
    paths = loaded.find(args.inputs)
    # Only now is it known what is read: folders were named, and files are found in them.
    if args.output is not None:
        check_file(args.output, read=(weights_file(args.model), *paths))
    answers = loaded.predict_many(
        paths, top=args.top, views=args.views, batch_size=args.batch_size, precision=args.precision
    )
    return write_lines(args, answers, total=len(paths))


def _predict_list(args: argparse.Namespace) -> int:
    engine: Literal["loop", "ray"] = "loop" if args.engine is None else args.engine
    # Processes of Ray are started by Ray itself; a loop that was started twice would do all of it twice.
    if engine == "loop":
        _check_alone()
    found = predict_list(
        args.list,
        args.output_folder,
        model=args.model,
        root=args.root,
        top=args.top,
        views=args.views,
        batch_size=args.batch_size,
        precision=args.precision,
        device=args.device,
        part_size=1000 if args.part_size is None else args.part_size,
        num_workers=2 * (engine == "loop") if args.num_workers is None else args.num_workers,
        engine=engine,
        workers=args.workers,
        watch=_show,
    )
    if found.assumptions:
        print(f"nonlocalnn predict: {args.model} does not say, assumed: {found.assumptions}", file=sys.stderr)
    print(f"predicted {found.lines - found.failed} of {found.lines} files; results  {args.output_folder}")
    if found.blank or found.repeated:
        print(
            f"the list has {found.blank} blank lines (left out) and {found.repeated} repeated paths (each "
            "has its answer)"
        )
    if found.failed:
        with found.failures.open(encoding="utf-8", errors="replace") as lines:
            for line in islice(lines, _MOST_NAMED):
                reason = line.rstrip("\n").rpartition("\t")[2]
                print(f"nonlocalnn predict: {reason}", file=sys.stderr)
        print(f"nonlocalnn predict: {found.failed} files failed: {found.failures}", file=sys.stderr)
    return 1 if found.failed else 0


def _check_alone() -> None:
    """Check that this process was not started together with others, each of which would do the whole list."""
    for name in _COPIES:
        if int(os.environ.get(name, 1)) > 1:
            raise ValueError(
                f"--list is done by one process, and {name} says that {os.environ[name]} were started: start "
                "one, with --engine ray to use several GPUs, CPUs or machines"
            )


def _show(counts: Iterator[int], total: int) -> Iterable[int]:
    """Show a progress bar of the lines that are done."""
    steps = chain.from_iterable(range(*pair) for pair in pairwise(chain([0], counts)))
    return progress(steps, total=total, label="predict")
