"""``nonlocalnn convert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn._files import read_lines
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.checkpoints import Imported, export_checkpoint, import_checkpoint, save_checkpoint
from nonlocalnn.checkpoints.shards import files_read
from nonlocalnn.cli.flags.convert import parser
from nonlocalnn.cli.outputs import check_file
from nonlocalnn.inference.model_facts import implied_facts
from nonlocalnn.models import ResidualNetwork, create_model


def run(words: Sequence[str]) -> int:
    """Read a checkpoint of any known kind and write it as ours, or ours as another's."""
    args = parser().parse_args(words)
    read = (*files_read(args.source), *([] if args.classes is None else [args.classes]))
    check_file(args.target, flag="target", read=read)
    # Every setting that has no effect is an error.
    if args.to is not None and args.classes is not None:
        raise ValueError("--classes is written into our files only: leave it out with --to")
    settings = {} if args.classes is None else {"num_classes": len(read_lines(args.classes))}
    model = None if args.model is None else create_model(args.model, **settings)
    found = import_checkpoint(
        args.source,
        model,
        clip=args.clip,
        entry=args.entry,
        instantiation=args.instantiation,
        allow_partial=args.allow_partial,
    )
    print(f"{args.source}: {_description(found)}")
    for gap in found.gaps:
        print(f"{args.source}: {gap}")
    if args.to is not None:
        for difference in export_checkpoint(found.model, args.target, to=args.to):
            print(f"{args.target}: tell {args.to} what no key says: {difference}")
        print(f"{args.target}: keys of {args.to}")
        return 0
    # What is implied by the name now is written down, so that the file stays what it is when names change.
    metadata = {**implied_facts(found.model, found.metadata), **found.metadata}
    if args.classes is not None:
        metadata = {**metadata, "classes": _read_classes(args.classes, len(metadata["classes"]))}
    save_checkpoint(found.model, args.target, metadata=metadata)
    print(f"{args.target}: {found.model.config}")
    return 0


def _description(found: Imported) -> str:
    """Return what was found: code base, network, blocks, clip, normalisation, and how much of it was used."""
    parts = [found.source]
    if isinstance(found.model, ResidualNetwork):
        parts += _network(found.model)
    metadata = found.metadata
    if "stride" in metadata:
        parts.append(f"clips of {metadata['sample_shape'][1]} frames, stride {metadata['stride']}")
    if "mean" in metadata:
        parts.append(f"mean {metadata['mean']}, standard deviation {metadata['standard_deviation']}")
    return "; ".join([*parts, f"{found.num_tensors} tensors{'' if found.gaps else ', all used'}"])


def _network(model: ResidualNetwork) -> list[str]:
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    lengths = [len(stage) for stage in stages]
    # As in ResNet-50: three convolutions a bottleneck, the stem and the last layer.
    depth = 3 * sum(lengths) + 2
    kernel = "x".join(str(side) for side in model.conv1.kernel_size)
    blocks = nonlocal_blocks(model)
    kinds = sorted({block.instantiation for block in blocks.values()})
    placed = ", ".join(name.removesuffix(".nl") for name in blocks)
    norm = "batch" if isinstance(model.bn1, nn.modules.batchnorm._BatchNorm) else "frozen"
    return [
        f"{_kind(model)} of depth {depth} ({', '.join(map(str, lengths))}), first kernel {kernel}",
        f"{len(blocks)} blocks, {', '.join(kinds)}, after {placed}" if blocks else "no blocks",
        f"{norm} norms",
    ]


def _kind(model: ResidualNetwork) -> str:
    if model.num_sides != 3 or model.is_volume:
        return "ResNet"
    first: Any = model.layer1[0]
    if first.conv1.kernel_size[0] == 3:
        return "I3D (3x1x1)"
    return "I3D (3x3x3)" if first.conv2.kernel_size[0] == 3 else "C2D"


def _read_classes(path: Path, number: int) -> list[str]:
    """Return the names in a file, one a line."""
    names = read_lines(path)
    if len(names) != number or len(set(names)) != number:
        raise ValueError(
            f"{path} must name {number} different classes, one a line; it has {len(names)} lines, "
            f"{len(set(names))} of them different"
        )
    return names
