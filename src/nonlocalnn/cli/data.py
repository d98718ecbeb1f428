"""``nonlocalnn data``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from nonlocalnn._names import SPLITS
from nonlocalnn._progress import progress
from nonlocalnn.cli.flags.data import parser
from nonlocalnn.cli.outputs import check_folder
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.archives.writing import write_archives
from nonlocalnn.data.cue import load_cue
from nonlocalnn.data.file_check import check_file, files_to_check
from nonlocalnn.data.video import VideoDecodeError
from nonlocalnn.data.video.files import find_videos, shrink_video, write_clip

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(words: Sequence[str]) -> int:
    """Look after files of data or make some; status 1 when videos are broken, which are listed."""
    args = parser().parse_args(words)
    if args.action == "cue":
        return _cue(args)
    if args.action == "archives":
        return _archives(args)
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {args.workers}")
    return _check(args) if args.action == "check" else _shrink(args)


def _check(args: argparse.Namespace) -> int:
    items: list[tuple[str, Path | ArchivedFile]] = []
    broken = missing = 0
    for path in args.inputs:
        try:
            items += files_to_check(path, kind=args.kind)
        except FileNotFoundError as error:
            missing += 1
            print(" ".join(str(error).split()), flush=True)
        except (ValueError, OSError) as error:
            # One input that is not there, or is no archive, does not keep the others from being checked.
            broken += 1
            print(" ".join(str(error).split()), flush=True)
    for reason in _in_processes(
        partial(check_file, backend=args.decoder), items, workers=args.workers, label="check"
    ):
        if reason is not None:
            broken += 1
            # At once: a check of a large folder takes hours.
            print(reason, flush=True)
    kinds = Counter(kind for kind, _ in items)
    counted = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items(), reverse=True))
    absent = f", {missing} not found" if missing else ""
    print(f"{counted or 'nothing to check'}, {broken} broken{absent}")
    return 1 if broken or missing else 0


def _shrink(args: argparse.Namespace) -> int:
    check_folder(args.target, flag="TARGET")
    source, target = args.source.resolve(), args.target.resolve()
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {args.source}")
    # Else the next call would find the small copies too, and copy those.
    if target.is_relative_to(source):
        raise ValueError(f"TARGET must lie outside of SOURCE, {source}; got {target}")
    pairs = [(path, _place(path, source, target)) for path in find_videos([source]) if path.is_file()]
    if not pairs:
        raise ValueError(f"{source} holds no video file; folders of frames are not shrunk")
    # All become .mp4: a.avi and a.mov of one folder would be one file.
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
    check_folder(args.target, flag="TARGET")
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
    check_folder(args.output, flag="OUTPUT")
    kind = "videos" if args.videos else "images"
    written: list[Path] = []

    def watch(paths: Sequence[Path]) -> Iterable[Path]:
        written.extend(paths)
        return progress(paths, total=len(paths), label="archives")

    counts = write_archives(
        args.source, args.output, kind=kind, samples_per_archive=args.per_archive, watch=watch
    )
    for split, number in counts.items():
        print(f"{split}: {number} {kind} in archives in {args.output}")
    if not written:
        print(f"{args.output} was whole already, by sizes and classes: nothing was left to write")
    return 0


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, label: str
) -> Iterator[Result]:
    """Yield the function of each item in order, under a progress bar; one worker is this process."""
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
    # There is a process for each core already.
    torch.set_num_threads(1)
