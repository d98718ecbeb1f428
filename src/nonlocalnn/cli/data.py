"""``nonlocalnn data``."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from nonlocalnn._progress import progress
from nonlocalnn.cli.common import command_parser
from nonlocalnn.data.archives.writing import write_archives
from nonlocalnn.data.cue import load_cue
from nonlocalnn.data.file_check import check_file, files_to_check
from nonlocalnn.data.labelled import SPLITS
from nonlocalnn.data.video import BACKENDS, VideoDecodeError, VideoPath
from nonlocalnn.data.video.files import find_videos, shrink_video, write_clip

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(words: Sequence[str]) -> int:
    """Look after files of data or make some; status 1 when videos are broken, which are listed."""
    args = _parser().parse_args(words)
    if args.action == "cue":
        return _cue(args)
    if args.action == "archives":
        return _archives(args)
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {args.workers}")
    return _check(args) if args.action == "check" else _shrink(args)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data",
        "Look after videos and images, make some, or put them into archives. Broken files are listed on\n"
        "standard output, one a line with the reason, and the status is 1.",
        "nonlocalnn data check videos/ photos/\n  nonlocalnn data shrink videos/ small/ --short-side 256\n"
        "  nonlocalnn data archives small/ archives/ --videos\n"
        "  nonlocalnn data cue generated/ --samples 200",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="decode every frame and image, and list the files that are cut or damaged",
        description="Decode every frame and image, and list the files that are cut or damaged.",
    )
    check.add_argument(
        "inputs", nargs="+", type=Path, metavar="PATH", help="videos, images, folders and .tar archives"
    )
    check.add_argument(
        "--kind",
        choices=("images", "videos"),
        help="what folders of pictures are: images, or videos by their frames (default: videos where PATH "
        "holds video files too, or most of its folders a series of numbered pictures of one size)",
    )
    check.add_argument("--backend", default="pyav", choices=BACKENDS, help="what decodes (default: pyav)")
    shrink = actions.add_parser(
        "shrink",
        help="encode videos anew, small and quick to read; called again, go on where it was stopped",
        description="Encode the videos of a folder anew, as H.264 in .mp4 files in the same folders,\n"
        "without sound. Called again, it goes on where it was stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shrink.add_argument("source", type=Path, metavar="SOURCE", help="a folder of videos")
    shrink.add_argument("target", type=Path, metavar="TARGET", help="the folder to fill")
    shrink.add_argument(
        "--short-side", type=int, default=256, help="pixels; smaller videos keep their size (default: 256)"
    )
    cue = actions.add_parser(
        "cue",
        help="write generated clips of digits as videos, to try the commands on",
        description="Write clips of the generated data set 'cue' as videos, in folders train, validation\n"
        "and test with a folder per class. Called again, it goes on where it was stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cue.add_argument("target", type=Path, metavar="TARGET", help="the folder to fill")
    cue.add_argument("--samples", type=int, help="the first so many of each split (default: all)")
    archives = actions.add_parser(
        "archives",
        help="put a folder of images or videos into tar archives; called again, go on where it was stopped",
        description="Put images, or with --videos videos, into numbered tar archives with their classes, as\n"
        "they are. Called again after it was stopped, it goes on with the archives that are missing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    archives.add_argument(
        "source", type=Path, metavar="SOURCE", help="the --data-dir of --data images, or of --data videos"
    )
    archives.add_argument("output", type=Path, metavar="OUTPUT", help="the folder to fill")
    archives.add_argument("--videos", action="store_true", help="SOURCE holds videos, not images")
    archives.add_argument("--per-archive", type=int, default=1000, help="samples an archive (default: 1000)")
    for action in (check, shrink):
        action.add_argument("--workers", type=int, default=_cores(), help="processes (default: one a core)")
    usages = "".join(action.format_usage() for action in (check, shrink, archives, cue))
    parser.epilog = f"{usages}\n{parser.epilog}"
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(args: argparse.Namespace) -> int:
    items: list[tuple[str, VideoPath]] = []
    broken = 0
    for path in args.inputs:
        try:
            items += files_to_check(path, kind=args.kind)
        except (ValueError, OSError) as error:
            # One input that is not there, or is no archive, does not keep the others from being checked.
            broken += 1
            print(" ".join(str(error).split()), flush=True)
    for reason in _in_processes(
        partial(check_file, backend=args.backend), items, workers=args.workers, label="check"
    ):
        if reason is not None:
            broken += 1
            print(reason, flush=True)
    kinds = Counter(kind for kind, _ in items)
    counted = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items(), reverse=True))
    print(f"{counted or 'nothing'}, {broken} broken")
    return 1 if broken else 0


def _shrink(args: argparse.Namespace) -> int:
    source, target = args.source.resolve(), args.target.resolve()
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {args.source}")
    if target.is_relative_to(source):
        raise ValueError(f"TARGET must lie outside of SOURCE, {source}; got {target}")
    pairs = [(path, _place(path, source, target)) for path in find_videos([source]) if path.is_file()]
    if not pairs:
        raise ValueError(f"{source} holds no video file; folders of frames are not shrunk")
    counts: Counter[str] = Counter(str(made) for _, made in pairs)
    twice = sorted(made for made, number in counts.items() if number > 1)
    if twice:
        raise ValueError(f"several videos of {source} would become {twice[0]}: rename all but one")
    outcomes: Counter[str] = Counter()
    for outcome, reason in _in_processes(
        partial(_shrink_one, short_side=args.short_side), pairs, workers=args.workers, label="shrink"
    ):
        outcomes[outcome] += 1
        if reason:
            print(reason, flush=True)
    print(
        f"{len(pairs)} videos: {outcomes['made']} made, {outcomes['kept']} kept, "
        f"{outcomes['broken']} broken; results in {args.target}"
    )
    return 1 if outcomes["broken"] else 0


def _place(path: Path, source: Path, target: Path) -> Path:
    return (target / path.relative_to(source)).with_suffix(".mp4")


def _shrink_one(pair: tuple[Path, Path], *, short_side: int) -> tuple[str, str]:
    """Return "made", "kept" or "broken", and the reason of the last."""
    try:
        return "made" if shrink_video(*pair, short_side=short_side) else "kept", ""
    except VideoDecodeError as error:
        return "broken", str(error)


def _cue(args: argparse.Namespace) -> int:
    if args.samples is not None and args.samples < 1:
        raise ValueError(f"--samples must be at least 1; got {args.samples}")
    for split in SPLITS:
        samples = load_cue("cue", split)
        number = len(samples) if args.samples is None else min(args.samples, len(samples))
        for index in progress(range(number), total=number, label=split):
            clip, target = samples[index]
            write_clip(clip, args.target / split / samples.classes[target] / f"{index:04}.mp4")
        print(f"{split}: {number} generated videos in {args.target / split}")
    return 0


def _archives(args: argparse.Namespace) -> int:
    if args.per_archive < 1:
        raise ValueError(f"--per-archive must be at least 1; got {args.per_archive}")
    kind = "videos" if args.videos else "images"
    counts = write_archives(
        args.source,
        args.output,
        kind=kind,
        samples_per_archive=args.per_archive,
        watch=lambda paths: progress(paths, total=len(paths), label="archives"),
    )
    for split, number in counts.items():
        print(f"{split}: {number} {kind} in archives in {args.output}")
    return 0


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, label: str
) -> Iterator[Result]:
    """Yield the function of each item in order, under a progress bar; one worker is this process.

    Raises:
        OSError: A process was ended from outside.
    """
    if workers == 1:
        yield from progress(map(function, items), total=len(items), label=label)
        return
    # Forking a process that has run torch's threads may leave the new one waiting for them forever.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_take_one_thread)
    try:
        yield from progress(pool.map(function, items), total=len(items), label=label)
    except BrokenProcessPool as error:
        raise OSError(
            "a process was ended from outside, perhaps for want of memory: try fewer --workers; with "
            "--workers 1 it is seen which video does it"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _take_one_thread() -> None:
    torch.set_num_threads(1)
