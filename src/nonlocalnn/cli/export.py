"""``nonlocalnn export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nonlocalnn.cli.common import command_parser, load_model
from nonlocalnn.export import FORMATS, describe, export_model


def run(words: Sequence[str]) -> int:
    """Write a trained network as a file that runs without this package."""
    parser = command_parser(
        "export",
        "Write a trained network as ONNX, for torch.export.load (pt2), or as a compiled package (aoti). The "
        "file is run at three sizes of the input, and kept only where it equals the network at all of them. "
        "Classes and what videos must be turned into are inside.",
        "nonlocalnn export runs/digits\n  nonlocalnn export runs/clips --format pt2 --output clips.pt2",
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a checkpoint, or the folder of a run (its best weights)"
    )
    parser.add_argument("--format", default="onnx", choices=FORMATS, help="default: onnx")
    parser.add_argument(
        "--output",
        type=Path,
        help="the file (default: the name of MODEL, with .onnx or .pt2, in this folder)",
    )
    parser.add_argument("--opset", type=int, help="the ONNX operator set, at least 18 (default: 23)")
    parser.add_argument("--static", action="store_true", help="fix batch and sides to those of two samples")
    args = parser.parse_args(words)
    loaded = load_model("export", args.model)
    name = args.model.resolve().name if args.model.is_dir() else args.model.stem
    suffix = ".onnx" if args.format == "onnx" else ".pt2"
    report = export_model(
        loaded.model,
        Path(name + suffix) if args.output is None else args.output,
        format=args.format,
        sample_shape=loaded.sample_shape,
        metadata=describe(loaded),
        opset=args.opset,
        dynamic=not args.static,
    )
    print(report)
    return 0
