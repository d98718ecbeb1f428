"""Flags of ``nonlocalnn export``."""

from pathlib import Path

from nonlocalnn._names import EXPORT_FORMATS
from nonlocalnn.cli.flags import CommandParser, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "export",
        "Write a trained network as ONNX, for torch.export.load (pt2), or as a compiled package (aoti). The\n"
        "file is run at three sizes of the input, and kept only where it equals the network at all of them.\n"
        "Classes and what videos must be turned into are inside.",
        "nonlocalnn export runs/digits\n  nonlocalnn export runs/clips --format pt2 --output clips.pt2",
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a checkpoint, or the folder of a run (its best weights)"
    )
    parser.add_argument(
        "--format", choices=EXPORT_FORMATS, help="default: pt2 where OUTPUT ends so, else onnx"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the file (default: the name of MODEL, with .onnx or .pt2, in this folder)",
    )
    parser.add_argument("--opset", type=int, help="the ONNX operator set, at least 18 (default: 23)")
    parser.add_argument("--static", action="store_true", help="fix batch and sides to those of two samples")
    return parser
