"""Flags of ``nonlocalnn data``."""

import os
from pathlib import Path

from nonlocalnn._names import BACKENDS
from nonlocalnn.cli.flags import CommandParser, add_action, command_parser


def parser() -> CommandParser:
    """Return the parser, with one for each action."""
    parser = command_parser(
        "data",
        "Look after videos and images, make some, or put them into archives. Broken files are listed on\n"
        "standard output, one a line with the reason, and the status is 1.",
        "nonlocalnn data check videos/ photos/\n  nonlocalnn data shrink videos/ small/ --short-side 256\n"
        "  nonlocalnn data archives small/ archives/ --videos\n"
        "  nonlocalnn data cue generated/ --samples 200",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = add_action(
        actions,
        "check",
        summary="decode every frame and image, and list the files that are cut or damaged",
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
    check.add_argument(
        "--decoder",
        # What it was called before 0.1.0; the flag of the other commands is --decoder.
        "--backend",
        default="pyav",
        choices=BACKENDS,
        help="of videos: what decodes (default: pyav)",
    )
    shrink = add_action(
        actions,
        "shrink",
        summary="encode videos anew, small and quick to read; called again, go on where it was stopped",
        description="Encode the videos of a folder anew, as H.264 in .mp4 files in the same folders,\n"
        "without sound. Called again, it goes on where it was stopped.",
    )
    shrink.add_argument("source", type=Path, metavar="SOURCE", help="a folder of videos")
    shrink.add_argument("target", type=Path, metavar="TARGET", help="the folder to fill")
    shrink.add_argument(
        "--short-side", type=int, default=256, help="pixels; smaller videos keep their size (default: 256)"
    )
    cue = add_action(
        actions,
        "cue",
        summary="write generated clips of digits as videos, to try the commands on",
        description="Write clips of the generated data set 'cue' as videos, in folders train, validation\n"
        "and test with a folder per class. Called again, it goes on where it was stopped.",
    )
    cue.add_argument("target", type=Path, metavar="TARGET", help="the folder to fill")
    cue.add_argument("--samples", type=int, help="the first so many of each split (default: all)")
    archives = add_action(
        actions,
        "archives",
        summary="put images or videos into tar archives; called again, go on where it was stopped",
        description="Put images, or with --videos videos, into numbered tar archives with their classes, as\n"
        "they are. Called again after it was stopped, it goes on with the archives that are missing.",
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
