"""``nonlocalnn models``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nonlocalnn.cli.common import command_parser
from nonlocalnn.models import create_model, list_models, sample_shape
from nonlocalnn.models.cost import cost

# What the paper counts: 32 frames of 224 pixels (released code pads no pooling, its successors do).
_COUNTED = [
    f"{prefix}{kind}_r{depth}_32x2"
    for depth in (50, 101)
    for kind in ("c2d", "i3d", "i3d333")
    for prefix in ("", "nl1_", "nl5_", "nl10_")
]


def run(words: Sequence[str]) -> int:
    """Print each network's name and number of parameters, or what the paper's video networks cost."""
    parser = command_parser(
        "models", "The networks that can be made by name.", "nonlocalnn models\n  nonlocalnn models --cost"
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="a table of the paper's video networks at 32 x 224 x 224 instead: millions of parameters and "
        "10^9 multiply-adds, of convolutions and matrix products, those of normalisation left out",
    )
    args = parser.parse_args(words)
    if args.cost:
        print(cost_table())
        return 0
    for name in list_models():
        with torch.device("meta"), _WithoutValues():
            count = sum(parameter.numel() for parameter in create_model(name).parameters())
        print(f"{name:<24}{count:>12,} parameters  sample {'x'.join(map(str, sample_shape(name)))}")
    return 0


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
        with torch.device("meta"):
            model = create_model(name, pads_pool1=pads_pool1)
        found.append(cost(model, (1, *sample_shape(name))).materialised_flops / 2e9)
    parameters = sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters(recurse=False)
    )
    return parameters / 1e6, found[0], found[1]
