"""Flags of ``nonlocalnn cost``."""

import argparse
import re

from nonlocalnn.cli.flags import CommandParser, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "cost",
        "Parameters, FLOPs (2 x multiply-adds) of one forward pass and, of each non-local block, the memory\n"
        "that an affinity in full would need and that ours needs. Nothing is computed.",
        "nonlocalnn cost nl_digits\n  nonlocalnn cost runs/digits --input 64,1,28,28 --json",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a network by name (see nonlocalnn models), a checkpoint, or the folder of a run",
    )
    parser.add_argument(
        "--input",
        type=_shape,
        metavar="B,C,H,W",
        help="shape of the input, with the batch (default: one sample of what the model was made for)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: counts and bytes")
    return parser


def _shape(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text) is None:
        raise argparse.ArgumentTypeError(f"a shape is B,C,H,W, as in 1,1,28,28; got {text!r}")
    return tuple(map(int, text.split(",")))
