"""``nonlocalnn predict``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch

from nonlocalnn._device import resolve_device
from nonlocalnn._files import write_text
from nonlocalnn._progress import progress
from nonlocalnn.bulk import predict_list
from nonlocalnn.cli.common import add_model_arguments, command_parser, load_model

_OF_LISTS = ("output_folder", "root", "shard_size", "num_workers")
# This process's number, its number on this machine, and how many there are, as their starters say it.
_STARTERS = (("RANK", "LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"))
_MOST_NAMED = 10


def run(words: Sequence[str]) -> int:
    """Predict files; status 1 when one could not be read, which is said on stderr and in its line."""
    parser = _parser()
    args = parser.parse_args(words)
    if args.list is not None:
        if args.inputs or args.output is not None:
            parser.error(
                "--list takes its files from the list and writes to --output-folder: leave out "
                + ("INPUT" if args.inputs else "--output")
            )
        if args.output_folder is None:
            parser.error("--list needs --output-folder")
        return _predict_list(args)
    if not args.inputs:
        parser.error("the following arguments are required: inputs (or --list)")
    for name in _OF_LISTS:
        if getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is a setting of --list: leave it out")
    return _predict_inputs(args)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "predict",
        "The most probable classes of images, or of videos by a model of videos, one JSON object a line.",
        "nonlocalnn predict digit.png more/ --model runs/digits\n"
        "  nonlocalnn predict clip.mp4 --model runs/kinetics --views 30 --top 5\n"
        "  torchrun --nproc-per-node 8 -m nonlocalnn predict --list files.txt --output-folder answers "
        "--model runs/kinetics",
    )
    parser.add_argument("inputs", nargs="*", type=Path, help="files, and folders of them")
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
    lists = parser.add_argument_group(
        "lists of files",
        "for any number of files, by one process or several; the same command goes on with a run",
    )
    lists.add_argument("--list", type=Path, help="text file with a path a line, in place of inputs")
    lists.add_argument("--output-folder", type=Path, help="folder of the results, part by part")
    lists.add_argument("--root", type=Path, help="what paths are relative to (default: the list's folder)")
    lists.add_argument("--shard-size", type=int, help="files of a part (default: 1000)")
    lists.add_argument("--num-workers", type=int, help="processes that read ahead (default: 2)")
    return parser


def _predict_inputs(args: argparse.Namespace) -> int:
    loaded = load_model("predict", args.model, device=args.device)
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


def _predict_list(args: argparse.Namespace) -> int:
    rank, local_rank, world_size = _place()
    found = predict_list(
        args.list,
        args.output_folder,
        model=args.model,
        root=args.root,
        top=args.top,
        views=args.views,
        batch_size=args.batch_size,
        precision=args.precision,
        device=_own_device(args.device, local_rank, world_size),
        shard_size=1000 if args.shard_size is None else args.shard_size,
        num_workers=2 if args.num_workers is None else args.num_workers,
        rank=rank,
        world_size=world_size,
        watch=_show if rank == 0 else None,
    )
    if found.assumptions and rank == 0:
        print(f"nonlocalnn predict: {args.model} does not say, assumed: {found.assumptions}", file=sys.stderr)
    if found.failed is None:
        print(
            f"rank {rank}: nothing left to take; parts with other processes: {found.unfinished} (if none "
            "runs any more, run the same command again)"
        )
        # A status other than 0 would make torchrun stop the processes that are still at work.
        return 0
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


def _place() -> tuple[int, int, int]:
    """Return this process's rank, its rank on this machine, and the number of processes."""
    for names in _STARTERS:
        if all(name in os.environ for name in names):
            rank, local_rank, world_size = (int(os.environ[name]) for name in names)
            return rank, local_rank, world_size
    return 0, 0, 1


def _own_device(device: str, local_rank: int, world_size: int) -> str:
    """Return the device of this process: of several GPUs the one of its number on this machine.

    Raises:
        ValueError: "cuda:N" was asked of several processes.
    """
    if device.startswith("cuda:") and world_size > 1:
        raise ValueError(
            f"device {device!r} names one GPU for {world_size} processes: use 'cuda', one GPU for each"
        )
    if resolve_device(device).type != "cuda" or device.startswith("cuda:"):
        return device
    # A process may be shown its own GPU alone, or share one with others.
    return f"cuda:{local_rank % torch.cuda.device_count()}"


def _show(counts: Iterator[int], total: int) -> Iterable[int]:
    """Show a progress bar of the lines that are done."""

    def each() -> Iterator[int]:
        shown = 0
        for count in counts:
            yield from range(shown, count)
            shown = max(shown, count)

    return progress(each(), total=total, label="predict")
