"""Flags of ``nonlocalnn maps``."""

import argparse
import re
from pathlib import Path

from nonlocalnn._names import ANIMATIONS
from nonlocalnn.cli.flags import CommandParser, add_data, add_model, add_rate, add_whole, command_parser

_PLACE = re.compile(r"-?\d+(,-?\d+){0,2}")


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "maps",
        "What positions of images, videos, sequences or volumes attend to, in each non-local block:\n"
        "pictures, arrays and a summary.",
        "nonlocalnn maps digit.png --model runs/digits --output runs/maps\n"
        "  nonlocalnn maps clip.mp4 --model runs/kinetics --pixels 3,112,112 --format gif\n"
        "  nonlocalnn maps --data digits --samples 0 12 --model runs/digits --blocks nl_1 --queries 3,4 9,9",
    )
    parser.add_argument(
        "inputs", nargs="*", type=Path, help="images, videos, sequences or volumes, and folders of them"
    )
    add_model(parser)
    add_data(parser, purpose="take inputs from a data set instead")
    parser.add_argument(
        "--samples", nargs="+", type=int, default=[0], help="places in the split (default: 0)"
    )
    parser.add_argument("--blocks", nargs="+", help="names of blocks (default: all)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--queries",
        nargs="+",
        type=_place,
        metavar="PLACE",
        help="positions in the block's map: N, ROW,COLUMN, TIME,ROW,COLUMN or SLICE,ROW,COLUMN (default: "
        "four, chosen where the input has detail)",
    )
    where.add_argument(
        "--pixels",
        nargs="+",
        type=_place,
        metavar="PLACE",
        help="the same as points of the input, of which each block takes its nearest position",
    )
    parser.add_argument(
        "--format",
        default="png",
        choices=("png", "svg", *ANIMATIONS),
        help="of the pictures; gif and mp4 are videos that move, a file a query (default: png)",
    )
    add_whole(parser)
    add_rate(parser)
    parser.add_argument(
        "--all-rows", action="store_true", help="write the rows of all queries, not of those drawn only"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("runs/maps"),
        help="folder of the results (default: runs/maps)",
    )
    return parser


def _place(text: str) -> tuple[int, ...]:
    if _PLACE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"a position is N, ROW,COLUMN or TIME,ROW,COLUMN, as in 3,4; got {text!r}"
        )
    return tuple(map(int, text.split(",")))
