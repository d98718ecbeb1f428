"""Where blocks go: names of modules, the maps that those return, and the paper's places."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from nonlocalnn._device import eval_mode
from nonlocalnn._errors import check_choice
from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks
from nonlocalnn.functional.layers import BatchNorm, Convolution
from nonlocalnn.models.placement import STAGES, block_places, stage_lengths

# The attribute of a site that holds its block, as in the bottlenecks of this library.
CHILD = "nl"

_PLACEMENTS = {"paper-1": 1, "paper-5": 5, "paper-10": 10}
# ResNets of torchvision and timm, plain and with other convolutions, whose stages are layer1 to layer4.
_RESNET = re.compile(r"(?!.*(clip|mlp))(wide_|se|eca)?resne(t|xt)(aa|blur)?(?P<depth>50|101)(?!\d)[\w.-]*")
# Their bottlenecks and basic blocks return what their last convolution makes.
_RESIDUAL_MODULES = ("nonlocalnn.models.bottleneck", "timm.models.resnet", "torchvision.models.resnet")
_NEAR_NAMES = 3
# Of a regular expression; names of modules hold none of them.
_PATTERN_CHARACTERS = frozenset(r"\^$*+?{}[]()|")


def sites(architecture: str, placement: str) -> list[str]:
    """Return the modules of a ResNet after which the paper puts its blocks, for :func:`insert_nonlocal_`.

    One block right before the last bottleneck of res4; five in res3 and res4, after every second bottleneck
    (every seventh of res4 at depth 101); ten after every bottleneck of res3 and res4 (every fourth of res4
    at depth 101, where the paper names no places).

    Args:
        architecture: As torchvision and timm call it: "resnet50", "resnet101", or a relative with the same
            stages, such as "wide_resnet50_2", "resnext101_32x8d" or "resnet50d.ra2_in1k".
        placement: "paper-1", "paper-5" or "paper-10".

    Raises:
        ValueError: The paper has no places for this network, or the placement is unknown.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, section 5.1.

    Example:
        >>> sites("resnet50", "paper-5")
        ['layer2.1', 'layer2.3', 'layer3.1', 'layer3.3', 'layer3.5']
    """
    matched = _RESNET.fullmatch(architecture)
    if matched is None:
        raise ValueError(
            "the paper places blocks in ResNets of depth 50 and 101, as in 'resnet50' and 'resnet101'; "
            f"got {architecture!r}"
        )
    check_choice("placement", placement, tuple(_PLACEMENTS))
    depth = int(matched["depth"])
    places = block_places(_PLACEMENTS[placement], depth, stage_lengths(depth))
    return [f"{stage}.{place}" for stage in STAGES for place in places[stage]]


def find_sites(
    model: nn.Module, after: Sequence[str] | str | None, pattern: str | None
) -> dict[str, nn.Module]:
    """Return the modules that names, or one regular expression, stand for, in the model's order.

    Raises:
        ValueError: Not exactly one of the two is given, a name or the expression matches nothing, or two
            names stand for the same module.
    """
    blocks = tuple(nonlocal_blocks(model))
    candidates = {
        name: module
        for name, module in model.named_modules()
        if name and not any(f"{name}.".startswith(f"{block}.") for block in blocks)
    }
    if after is not None and pattern is None:
        chosen = _by_names([after] if isinstance(after, str) else after, candidates)
    elif pattern is not None and after is None:
        chosen = _by_pattern(pattern, candidates)
    else:
        raise ValueError(
            "give either after, names of modules such as ['layer3.4'], or pattern, a regular expression; "
            f"got after={after!r} and pattern={pattern!r}"
        )
    return {name: module for name, module in candidates.items() if name in chosen}


def _by_pattern(pattern: str, names: Mapping[str, object]) -> set[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"pattern must be a regular expression; got {pattern!r}: {error}") from None
    # A whole name: "layer3\.\d" must not match the layers inside of layer3.4.
    matches = {name for name in names if compiled.fullmatch(name)}
    if not matches:
        raise ValueError(
            f"pattern must match the whole name of a module; {pattern!r} matches none"
            f"{_near_names(pattern, names)}"
        )
    return matches


def _by_names(requests: Sequence[str], names: Mapping[str, object]) -> set[str]:
    """Return what each request names: the module called exactly so, or all whose names end so."""
    chosen: dict[str, str] = {}
    for request in requests:
        if not isinstance(request, str):
            raise ValueError(f"after must hold names of modules, as in ['layer3.4']; got {request!r}")
        matches = [request] if request in names else [name for name in names if name.endswith(f".{request}")]
        if not matches:
            looks_like_pattern = not _PATTERN_CHARACTERS.isdisjoint(request)
            advice = f": for a regular expression use pattern={request!r}" if looks_like_pattern else ""
            raise ValueError(f"the model has no module {request!r}{advice or _near_names(request, names)}")
        for name in matches:
            if name in chosen:
                raise ValueError(f"{chosen[name]!r} and {request!r} both stand for {name!r}: name it once")
            chosen[name] = request
    if not chosen:
        raise ValueError('after must name at least one module, as in ["layer3.4"]; got an empty list')
    return set(chosen)


def _near_names(request: str, names: Mapping[str, object]) -> str:
    """Return what to try instead; a request may be the end of a name, and is compared with such ends."""
    plain = request.replace("\\", "")
    num_parts = plain.count(".") + 1
    ends: dict[str, str] = {}
    for name in names:
        ends.setdefault(".".join(name.split(".")[-num_parts:]), name)
    near = difflib.get_close_matches(plain, ends, n=_NEAR_NAMES, cutoff=0.5)
    return f"; near it are {', '.join(repr(ends[end]) for end in near)}" if near else ""


def observe_maps(
    model: nn.Module, found: Mapping[str, nn.Module], example_input: object
) -> dict[str, list[tuple[int, ...]]]:
    """Run the model once in eval mode and return the shapes of the maps that each site returned.

    Raises:
        ValueError: A site did not run, or what it returned is no map, or maps of several widths or ranks.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in found}

    def observe(name: str, site: nn.Module, inputs: object, output: object) -> None:
        shapes[name].append(_map_shape(name, site, output))

    with ExitStack() as stack:
        for name, site in found.items():
            stack.callback(site.register_forward_hook(functools.partial(observe, name)).remove)
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        model(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    for name, seen in shapes.items():
        if not seen:
            raise ValueError(f"{name!r} did not run on example_input, so that no block can follow it")
        if len({(len(shape), shape[1]) for shape in seen}) > 1:
            listed = ", ".join(map(str, seen))
            raise ValueError(f"{name!r} runs several times and returns maps of several kinds: {listed}")
    return shapes


def _map_shape(name: str, site: nn.Module, output: object) -> tuple[int, ...]:
    if not isinstance(output, Tensor):
        raise ValueError(f"{name!r} returns a {type(output).__name__} and no map: choose a module inside it")
    shape = tuple(output.shape)
    if len(shape) not in (3, 4, 5) or not output.is_floating_point():
        raise ValueError(
            "a block follows a map of numbers, (B, C, N), (B, C, H, W) or (B, C, T, H, W); "
            f"{name!r} returns shape {shape} of {output.dtype}"
        )
    # Transformers put channels last. Their widths are those of the layers that work on the last axis.
    widths = {layer.normalized_shape[-1] for layer in site.modules() if isinstance(layer, nn.LayerNorm)}
    widths |= {layer.out_features for layer in site.modules() if isinstance(layer, nn.Linear)}
    if shape[-1] in widths and shape[1] not in widths:
        raise ValueError(f"{name!r} returns shape {shape} with channels last; a block follows (B, C, ...)")
    return shape


def certain_map(site: nn.Module) -> tuple[int, int] | None:
    """Return channels and number of sides of what a module returns, or None where only running it tells."""
    block = site._modules.get(CHILD)
    if isinstance(block, NonLocalNd):
        return block.in_channels, block._num_sides
    if isinstance(site, Convolution):
        return site.out_channels, len(site.kernel_size)
    # A BatchNorm1d takes vectors, too.
    if isinstance(site, BatchNorm) and not isinstance(site, nn.BatchNorm1d):
        return site.num_features, 2 if isinstance(site, nn.BatchNorm2d) else 3
    if type(site).forward is nn.Sequential.forward and len(site._modules):
        last = list(site.children())[-1]
        return certain_map(last)
    if type(site).__module__ in _RESIDUAL_MODULES:
        last_convolution = getattr(site, "conv3", getattr(site, "conv2", None))
        return None if last_convolution is None else certain_map(last_convolution)
    return None
