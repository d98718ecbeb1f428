"""``nonlocalnn export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.cli.common import load_model
from nonlocalnn.cli.flags.export import parser
from nonlocalnn.cli.outputs import check_file
from nonlocalnn.export import Format, describe, export_model
from nonlocalnn.inference import Detector


def run(words: Sequence[str]) -> int:
    """Write a trained network as a file that runs without this package."""
    args = parser().parse_args(words)
    # Resolved, since a run may be named by a dot.
    name = args.model.resolve().name if args.model.is_dir() else args.model.stem
    is_named = args.output is not None and args.output.suffix == ".pt2"
    format: Format = args.format or ("pt2" if is_named else "onnx")
    suffix = ".onnx" if format == "onnx" else ".pt2"
    output = Path(name + suffix) if args.output is None else args.output
    check_file(output, read=(weights_file(args.model),))
    loaded = load_model("export", args.model)
    if isinstance(loaded, Detector):
        raise ValueError(
            "a detector is exported from Python, for images of one size: torch.onnx.export(model, "
            "([image],), path, dynamo=False), see the guide to detection"
        )
    report = export_model(
        loaded.model,
        output,
        format=format,
        sample_shape=loaded.sample_shape,
        metadata=describe(loaded),
        opset=args.opset,
        dynamic=not args.static,
    )
    print(report)
    return 0
