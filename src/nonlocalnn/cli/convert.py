"""``nonlocalnn convert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nonlocalnn.checkpoints import load_checkpoint, read_metadata, save_checkpoint
from nonlocalnn.classifier import describe_images
from nonlocalnn.cli.common import command_parser
from nonlocalnn.models import create_model


def run(words: Sequence[str]) -> int:
    """Read a checkpoint of any known kind and write it as ours."""
    parser = command_parser(
        "convert",
        "Turn a checkpoint of another code base into ours, with equal outputs. Known: the digit network of "
        "AlexHex7/Non-local_pytorch, with any of its kinds of block. Nothing that the file holds is run.",
        "nonlocalnn convert their_weights.pth digits.safetensors",
    )
    parser.add_argument("source", type=Path, help="their file")
    parser.add_argument("target", type=Path, help="our file, in safetensors format")
    parser.add_argument(
        "--dot-product",
        action="store_true",
        help="the blocks are of their dot-product kind, whose keys are those of the embedded Gaussian",
    )
    args = parser.parse_args(words)
    model = load_checkpoint(args.source)
    if args.dot_product:
        config = model.config
        assert isinstance(config, dict)
        found = config["overrides"].get("instantiation", "embedded_gaussian")
        if found not in ("embedded_gaussian", "dot_product"):
            raise ValueError(f"{args.source} holds blocks of the kind {found!r}, not of the dot product")
        overrides = {**config["overrides"], "instantiation": "dot_product"}
        model = create_model(config["name"], num_classes=config["num_classes"], **overrides)
        load_checkpoint(args.source, model)
    metadata = read_metadata(args.source) or describe_images(model, args.source)
    save_checkpoint(model, args.target, metadata=metadata)
    print(f"{args.target}: {model.config}")
    return 0
