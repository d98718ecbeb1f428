"""``nonlocalnn cost``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nonlocalnn._errors import near_miss
from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.cli.common import load_model
from nonlocalnn.cli.flags.cost import parser
from nonlocalnn.models import list_models, sample_shape
from nonlocalnn.models.cost import cost


def run(words: Sequence[str]) -> int:
    """Print a network's parameters, FLOPs and the memory of its blocks, as a table or JSON."""
    args = parser().parse_args(words)
    model, input_shape = _model_and_input(args.model, args.input)
    try:
        counted = cost(model, input_shape)
    except RuntimeError as error:  # PyTorch's, of a layer that does not take this shape
        raise ValueError(f"the model does not take an input of shape {input_shape}: {error}") from error
    print(json.dumps(dataclasses.asdict(counted), indent=2) if args.json else counted)
    return 0


def _model_and_input(name: str, given: tuple[int, ...] | None) -> tuple[nn.Module | str, tuple[int, ...]]:
    path = Path(name)
    if name in list_models():
        return name, (1, *sample_shape(name)) if given is None else given
    if not path.exists():
        raise ValueError(
            f"{name!r} is neither a network (see nonlocalnn models) nor a file"
            f"{near_miss(name, list_models())}"
        )
    # With a shape given nothing has to be known of the samples: any file that builds its network will do.
    if given is not None and path.is_file():
        return load_checkpoint(path), given
    loaded = load_model("cost", path)
    return loaded.model, (1, *loaded.sample_shape) if given is None else given
