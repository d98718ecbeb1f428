"""``nonlocalnn models``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nonlocalnn.cli.flags.models import parser
from nonlocalnn.models import (
    clip_stride,
    create_model,
    list_models,
    model_input,
    model_task,
    sample_shape,
)
from nonlocalnn.models.cost import cost
from nonlocalnn.models.parameters import num_parameters

# What the paper counts: 32 frames of 224 pixels (released code pads no pooling, its successors do).
_COUNTED = [
    f"{prefix}{kind}_r{depth}_32x2"
    for depth in (50, 101)
    for kind in ("c2d", "i3d", "i3d333")
    for prefix in ("", "nl1_", "nl5_", "nl10_")
]


def run(words: Sequence[str]) -> int:
    """Print networks by their use, with their parameters, or what the paper's video networks cost."""
    args = parser().parse_args(words)
    if args.cost:
        if args.words or args.of is not None:
            parser().error("--cost is a table of fixed networks: leave out WORD and --of")
        print(cost_table())
        return 0
    groups: dict[str, list[str]] = {}
    for name in list_models():
        if all(word in name for word in args.words) and args.of in (None, _takes(name)):
            groups.setdefault(_use(name), []).append(name)
    if not groups:
        asked = " ".join([*args.words, *([] if args.of is None else [f"--of {args.of}"])])
        raise ValueError(f"no network's name fits {asked}: nonlocalnn models lists all")
    listed = ["\n".join([use, *map(_line, groups[use])]) for use in sorted(groups, key=_order)]
    print("\n\n".join(listed))
    if not args.words:
        print(
            "\nnl1_, nl5_, nl10_: with so many non-local blocks; nl2_: with two, nl_ and nl4head_: in the "
            "head. d6: a dilation of 6. r50, r101, x152: the depth. 8x8: frames of a clip x stride."
        )
    return 0


def _takes(name: str) -> str:
    return f"{model_input(name)}s"


def _use(name: str) -> str:
    """Return the heading under which a network is listed: what it takes, and for what it is meant."""
    if model_task(name) == "segmentation":
        part = "voxel" if model_input(name) == "volume" else "pixel"
        return f"{_takes(name)}, a class for each {part}: segmentation"
    if model_task(name) == "detection":
        return f"{_takes(name)}, boxes and masks of objects: detection"
    if "tiny" in name or "digits" in name:
        return f"{_takes(name)}, small: to train from scratch in minutes"
    kind = next((each for each in ("i3d333", "i3d", "c2d") if each in name), None)
    inflation = {"i3d333": "I3D, 3 x 3 x 3", "i3d": "I3D, 3 x 1 x 1", "c2d": "C2D"}
    return f"{_takes(name)}: ResNet" if kind is None else f"{_takes(name)}: {inflation[kind]}"


def _order(use: str) -> tuple[int, str]:
    """Small networks first, then those of images, then of videos."""
    return (0 if "small" in use else 1, use)


def _line(name: str) -> str:
    shape = "x".join(map(str, sample_shape(name)))
    stride = f", stride {clip_stride(name)}" if clip_stride(name) > 1 else ""
    return f"  {name:<24}{num_parameters(name):>12,} parameters  sample {shape}{stride}"


def sketch(name: str, **overrides: Any) -> torch.nn.Module:
    """Return a network without memory and without values."""
    with torch.device("meta"), _WithoutValues():
        return create_model(name, **overrides)


class _WithoutValues(TorchFunctionMode):
    """Leave out what fills weights with values: on the meta device it takes most of the time."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        _: object,
        args: Any = (),
        named: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        if function.__name__ in ("normal_", "uniform_", "fill_", "zero_"):
            return args[0] if args else named["tensor"]
        return function(*args, **named)


def cost_table() -> str:
    """Return the costs of the paper's video networks as a Markdown table.

    Ratios are to the C2D of the same depth, as in table 2e of the paper.
    """
    lines = [
        "| network | M parameters | x C2D | G multiply-adds, pool1 padded | x C2D | unpadded | x C2D |",
        "|---|---|---|---|---|---|---|",
    ]
    base: tuple[float, ...] = ()
    # Each C2D stands before the networks that are compared with it.
    for name in _COUNTED:
        counts = count_network(name)
        base = counts if name.startswith("c2d") else base
        cells = [f"{count:.2f} | {count / of:.2f}" for count, of in zip(counts, base, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def count_network(name: str) -> tuple[float, float, float]:
    """Return a video network's parameters without norms, 10^6, and multiply-adds, 10^9, padded and not."""
    found = []
    for pads_pool1 in (True, False):
        model = sketch(name, pads_pool1=pads_pool1)
        found.append(cost(model, (1, *sample_shape(name))).materialised_flops / 2e9)
    parameters = sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters(recurse=False)
    )
    return parameters / 1e6, found[0], found[1]
