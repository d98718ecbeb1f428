"""Self-attention of other libraries: layers for queries, keys and values, and what else belongs to them.

Names say which layers these are. Where names are not known, the class's name and the number of layers hint at
it. Neither says what is computed: which layer the queries come from, what multiplies the logits, whether a
function pools the keys. So :func:`read_attention` returns every reading that the layers allow, and a run on
random weights tells which is right.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from nonlocalnn.blocks import SubSample
from nonlocalnn.functional.layers import Convolution
from nonlocalnn.surgery.conversion.layers import (
    NotConvertibleError,
    named_leaves,
    norm_of,
    pool_size_of,
    window_of,
)
from nonlocalnn.surgery.conversion.parts import FoundNorm, Parts
from nonlocalnn.surgery.conversion.projections import (
    as_convolution,
    is_linear,
    scaled_output,
    thirds,
    widths,
)

# The library, and the names of queries, keys and values, or of one layer for all three.
_PROJECTIONS = (
    ("diffusers", ("to_q", "to_k", "to_v")),
    ("VAE", ("q", "k", "v")),
    ("DDPM", ("NIN_0", "NIN_1", "NIN_2")),
    ("DDPM", ("proj_q", "proj_k", "proj_v")),
    ("MONAI", ("attn.to_q", "attn.to_k", "attn.to_v")),
    ("MONAI", ("attn.qkv",)),
    ("guided diffusion", ("qkv",)),
    ("DDPM", ("to_qkv",)),
    ("SAGAN", ("query_conv", "key_conv", "value_conv")),
    ("SAGAN", ("f", "g", "h")),
    ("fastai", ("query", "key", "value")),
    ("mmseg", ("query_project", "key_project", "value_project")),
    ("BigGAN", ("theta", "phi", "g")),
    ("BigGAN", ("snconv1x1_theta", "snconv1x1_phi", "snconv1x1_g")),
    ("SlowFast", ("conv_theta", "conv_phi", "conv_g")),
)
# Of a class of such a name, layers of any names are tried.
_CALLED_ATTENTION = re.compile(r"attention|attn|non_?local|^pam|sagan", re.IGNORECASE)
_UNKNOWN = "custom"
_HEADS = ("num_heads", "heads", "n_heads", "num_head")


@dataclass(frozen=True)
class _Held:
    """What a module holds: its layers over channels in an order to try, and the rest.

    Args:
        source: The library.
        projections: Queries, keys and values, or one layer for all three.
        output: What leads back to the width of x.
        norms: In their order.
        window: By which a layer pools; None where no layer does.
        factor: What multiplies the output.
    """

    source: str
    projections: tuple[nn.Module, ...]
    output: nn.Module | None
    norms: tuple[FoundNorm, ...]
    window: tuple[int, ...] | None
    factor: nn.Parameter | None


def is_attention(module: nn.Module) -> bool:
    """Return whether a module holds layers for queries, keys and values."""
    return bool(_orders(module))


def is_called_attention(class_name: str) -> bool:
    """Return whether a class of this name is meant for attention, whatever it holds."""
    return _CALLED_ATTENTION.search(class_name) is not None


def read_attention(module: nn.Module, ranks: Sequence[int]) -> Iterator[Parts]:
    """Yield every reading of an attention module's layers that fits.

    Args:
        module: One of which :func:`is_attention` is true.
        ranks: Sides of its maps, the likeliest first, where its layers do not say.

    Raises:
        NotConvertibleError: Our block has no place for one of its layers or settings.
    """
    _check_settings(module)
    misfit, fits = None, False
    for source, projections, output in _orders(module):
        held = _held(module, source, projections, output)
        for rank in _known_ranks(module, projections) or ranks:
            for parts in _layers_in_order(module, held, rank):
                try:
                    parts.check()
                except NotConvertibleError as reason:
                    misfit = misfit or reason
                    continue
                fits = True
                yield from _computed_with(parts, module, held.window)
    if not fits and misfit is not None:
        raise misfit


def _orders(module: nn.Module) -> list[tuple[str, tuple[str, ...], str | None]]:
    """Return the names of projections and output, in every order to try; none where it is no attention."""
    names = [name for name, leaf in named_leaves(module).items() if is_linear(leaf)]
    for source, row in _PROJECTIONS:
        found = [next((each for each in names if f"{each}.".startswith(f"{name}.")), None) for name in row]
        projections = tuple(name for name in found if name is not None)
        if len(projections) == len(row):
            rest = [name for name in names if name not in projections]
            # Of several the last that gives as many channels as x has; what is left over becomes the reason.
            width = widths(module.get_submodule(projections[0]))[0]
            rest = [name for name in rest if widths(module.get_submodule(name))[1] == width] or rest
            return [(source, projections, rest[-1] if rest else None)]
    if not is_called_attention(type(module).__name__):
        return []
    if len(names) in (1, 2) and widths(module.get_submodule(names[0]))[1] % 3 == 0:
        return [(_UNKNOWN, (names[0],), names[1] if len(names) == 2 else None)]
    if len(names) not in (3, 4):
        return []
    # Both orders of the first two are tried for all modules.
    orders = [
        order for order in itertools.permutations(names) if names.index(order[0]) < names.index(order[1])
    ]
    return [(_UNKNOWN, order[:3], order[3] if len(names) == 4 else None) for order in orders]


def _held(module: nn.Module, source: str, projections: tuple[str, ...], output: str | None) -> _Held:
    """Return which layer is what; every parameter must belong to one of them."""
    leaves = named_leaves(module)
    norms = {name: norm_of([leaf]) for name, leaf in leaves.items() if "Norm" in type(leaf).__name__}
    windows = {window_of([leaf]) for leaf in leaves.values() if "Pool" in type(leaf).__name__}
    if len(windows) > 1:
        raise NotConvertibleError(f"keys can be pooled by one window; it has {windows}")
    places = (*projections, *norms, *([output] if output else []))
    others = {
        name: parameter
        for name, parameter in module.named_parameters()
        if not name.startswith(tuple(f"{place}." for place in places))
    }
    factors = [name for name, parameter in others.items() if parameter.numel() == 1]
    width = widths(module.get_submodule(output or projections[-1]))[1]
    factors = factors or [name for name in others if "gamma" in name and others[name].numel() == width]
    unknown = [name for name in others if name not in factors[:1]]
    if unknown:
        raise NotConvertibleError(f"a block of ours has no place for its {', '.join(unknown)}")
    if len(norms) > 2:
        raise NotConvertibleError(f"a block of ours has two norms at most; it has {list(norms)}")
    if source == "BigGAN" and not factors:
        source = "Keras"
    return _Held(
        source="diffusers" if source == "fastai" and output is not None else source,
        projections=tuple(leaves[name] for name in projections),
        output=None if output is None else leaves[output],
        norms=tuple(norm for norm in norms.values() if norm is not None),
        window=next(iter(windows), None),
        factor=others[factors[0]] if factors else None,
    )


def _check_settings(module: nn.Module) -> None:
    """Say in a library's own words what a run on random weights would show without a reason."""
    if getattr(module, "residual_connection", True) is False:
        raise NotConvertibleError("its residual_connection is False: a block of ours adds its input")
    factor = getattr(module, "rescale_output_factor", 1)
    if factor != 1:
        raise NotConvertibleError(f"it divides its output by rescale_output_factor = {factor}")
    if getattr(module, "is_causal", False) or getattr(getattr(module, "attn", None), "causal", False):
        raise NotConvertibleError("it is causal: in a block of ours every position sees all others")


def _num_heads(module: nn.Module) -> int:
    owners = (module, getattr(module, "attn", None))
    found = (getattr(owner, name, None) for owner in owners for name in _HEADS)
    return next((value for value in found if type(value) is int and value > 0), 1)


def _known_ranks(module: nn.Module, projections: Sequence[str]) -> list[int]:
    """Return the rank that layers or settings tell; a layer of another rank may be given a flattened map."""
    first, told = module.get_submodule(projections[0]), getattr(module, "spatial_dims", None)
    known = 2 if isinstance(first, nn.Conv2d) else 3 if isinstance(first, nn.Conv3d) else told
    return [known] if known in (1, 2, 3) else []


def _layers_in_order(module: nn.Module, held: _Held, rank: int) -> Iterator[Parts]:
    """Yield the layers as our block's, in every order of theta, phi and g, and of the norms."""
    num_heads = _num_heads(module)
    for theta, phi, g in _triples(held, rank, num_heads):
        base = Parts(
            held.source,
            "embedded_gaussian",
            theta,
            phi,
            g,
            scaled_output(held.output, held.factor, g),
            num_heads=num_heads,
        )
        if len(held.norms) == 2:
            yield replace(base, pre_norm=held.norms[0], norm=held.norms[1])
        elif held.norms:
            yield replace(base, pre_norm=held.norms[0])
            yield replace(base, norm=held.norms[0])
        else:
            yield base


def _triples(
    held: _Held, rank: int, num_heads: int
) -> Iterator[tuple[Convolution, Convolution, Convolution]]:
    if len(held.projections) == 3:
        q, k, v = (as_convolution(layer, rank) for layer in held.projections)
        # SAGAN's first code and fastai's take the softmax over what others call the queries.
        yield from ((q, k, v), (k, q, v))
        return
    made = as_convolution(held.projections[0], rank)
    if made.out_channels % (3 * num_heads):
        raise NotConvertibleError(
            f"one layer must give 3 equal parts to each of {num_heads} heads; it is {made}"
        )
    for groups in dict.fromkeys((1, num_heads)):
        yield thirds(made, groups)


def _computed_with(parts: Parts, module: nn.Module, window: tuple[int, ...] | None) -> Iterator[Parts]:
    """Yield the places of pooling, the pairwise functions and the scales that such modules use."""
    # BigGAN pools by a function, which no layer shows, of 2 x 2: our usual window. Layers of unknown names
    # have readings enough without.
    places: tuple[SubSample, ...] = (None,) if parts.source == _UNKNOWN else (None, "after", "before")
    places = places if window is None else ("after", "before", None)
    scales = [1.0, (parts.inner / parts.num_heads) ** -0.5, parts.g.in_channels**-0.5]
    told = getattr(module, "scale", None)
    if isinstance(told, int | float) and told > 0:
        scales.insert(0, float(told))
    for place in places:
        pooled = replace(parts, sub_sample=place, pool_size=None if place is None else pool_size_of(window))
        for scale in dict.fromkeys(scales):
            yield replace(pooled, scale=scale)
        yield replace(pooled, instantiation="dot_product")
