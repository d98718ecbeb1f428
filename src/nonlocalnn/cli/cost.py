"""``nonlocalnn cost``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nonlocalnn._errors import near_miss
from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.cli.common import command_parser, load_model
from nonlocalnn.models import list_models, sample_shape
from nonlocalnn.models.cost import cost


def run(words: Sequence[str]) -> int:
    """Print a network's parameters, FLOPs and the memory of its blocks, as a table or JSON."""
    parser = command_parser(
        "cost",
        "Parameters, FLOPs (2 x multiply-adds) of one forward pass and, of each non-local block, the memory "
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
    args = parser.parse_args(words)
    model, input_shape = _model_and_input(args.model, args.input)
    try:
        counted = cost(model, input_shape)
    except RuntimeError as error:  # PyTorch's, of a layer that does not take this shape
        raise ValueError(f"the model does not take an input of shape {input_shape}: {error}") from error
    print(json.dumps(dataclasses.asdict(counted), indent=2) if args.json else counted)
    return 0


def _shape(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text) is None:
        raise argparse.ArgumentTypeError(f"a shape is B,C,H,W, as in 1,1,28,28; got {text!r}")
    return tuple(map(int, text.split(",")))


def _model_and_input(name: str, given: tuple[int, ...] | None) -> tuple[nn.Module | str, tuple[int, ...]]:
    path = Path(name)
    if name in list_models():
        return name, (1, *sample_shape(name)) if given is None else given
    if not path.exists():
        raise ValueError(
            f"{name!r} is neither a network (see nonlocalnn models) nor a file"
            f"{near_miss(name, list_models())}"
        )
    if given is not None and path.is_file():
        return load_checkpoint(path), given
    loaded = load_model("cost", path)
    return loaded.model, (1, *loaded.sample_shape) if given is None else given
