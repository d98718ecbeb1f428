"""What the non-local modules of other libraries are made of, one function a layout.

Attention by queries, keys and values is read in :mod:`nonlocalnn.surgery.conversion.attentions`.

A layout is known by the names of a module's layers. Where they stand in each library:

======= =================== ================== =========================== ==============
ours    AlexHex7            mmcv               SlowFast, pytorchvideo      timm
======= =================== ================== =========================== ==============
theta   theta               theta.conv         conv_theta                  t
phi     phi or phi[0]       phi.conv, phi[0]   conv_phi                    p
g       g or g[0]           g.conv or g[0]     conv_g                      g
W_z     W or W[0]           conv_out.conv      conv_out                    z
norm    W[1]                conv_out.bn        norm (older: bn)            norm
w_f     concat_project[0]   concat_project     (none)                      (none)
pool    phi[1], g[1]        phi[1], g[1]       pool, on x before phi, g    (none)
scale   (none)              inter_channels     inter_channels              in_channels
======= =================== ================== =========================== ==============

The last row names the width whose power -1/2 multiplies the logits of a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import INSTANTIATIONS, Instantiation
from nonlocalnn.surgery.conversion.attentions import is_attention, is_called_attention, read_attention
from nonlocalnn.surgery.conversion.layers import (
    NotConvertibleError,
    convolution,
    convolution_and_rest,
    layers,
    norm_of,
    pool_size_of,
    rectified_convolution,
    window_of,
)
from nonlocalnn.surgery.conversion.parts import Parts

_CLASS_NAMES = {
    *("_NonLocalBlockND", "NONLocalBlock1D", "NONLocalBlock2D", "NONLocalBlock3D"),  # AlexHex7
    *("_NonLocalNd", "NonLocal1d", "NonLocal2d", "NonLocal3d"),  # mmcv
    *("Nonlocal", "NonLocal", "NonLocalAttn"),  # SlowFast, pytorchvideo, timm
}


@dataclass(frozen=True)
class _Layout:
    required: frozenset[str]
    optional: frozenset[str]
    read: Callable[[nn.Module], tuple[Parts, ...]]
    attribute: str | None = None


def is_candidate(module: nn.Module) -> bool:
    """Return whether a module has the class name or the layers of a non-local module that is not ours."""
    if isinstance(module, NonLocalNd):
        return False
    names = {base.__name__ for base in type(module).__mro__}
    return not names.isdisjoint(_CLASS_NAMES) or _layout(module) is not None or is_attention(module)


def was_candidate(compiled: torch.jit.ScriptModule) -> bool:
    """Return whether TorchScript made this of a non-local or attention module that is not ours."""
    name = compiled.original_name
    is_ours = "W_z" in dict(compiled.named_children())
    return not is_ours and (
        name in _CLASS_NAMES or is_called_attention(name) or _layout(compiled) is not None
    )


def read(module: nn.Module, ranks: Sequence[int]) -> tuple[Parts, ...]:
    """Return every reading of what a candidate is made of, and does.

    Args:
        module: The candidate.
        ranks: Sides of its maps, the likeliest first, where its layers do not say.

    Raises:
        NotConvertibleError: Our block has no place for one of its layers or settings.
    """
    layout = _layout(module)
    if layout is None and not is_attention(module):
        raise NotConvertibleError(unknown_layers(module))
    if any(_has_hooks(part) for part in module.modules()):
        raise NotConvertibleError("it has hooks, which would be lost: remove them first")
    found = tuple(read_attention(module, ranks)) if layout is None else layout.read(module)
    for parts in found:
        parts.check()
    return found


def unknown_layers(module: nn.Module) -> str:
    """Return the reason to leave a module whose layers are not known."""
    names = ", ".join(name for name, _ in module.named_children()) or "none"
    return f"its layers ({names}) are not those of a known non-local module"


def _layout(module: nn.Module) -> _Layout | None:
    children = {name for name, _ in module.named_children()}
    fitting = (
        each
        for each in _LAYOUTS
        if each.required <= children <= each.required | each.optional
        and (each.attribute is None or hasattr(module, each.attribute))
    )
    return next(fitting, None)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _read_alexhex7(module: nn.Module) -> tuple[Parts, ...]:
    found = _read_pooled_after(module, "W", "AlexHex7")
    # Its own code has no scale; rewritten copies and Keras-style blocks have one or the other.
    softmax = next((each for each in found if each.instantiation == "embedded_gaussian"), None)
    if softmax is None:
        return found
    return (
        *found,
        *(replace(softmax, scale=width**-0.5) for width in (softmax.inner, softmax.g.in_channels)),
    )


def _read_mmcv(module: nn.Module) -> tuple[Parts, ...]:
    found = _read_pooled_after(module, "conv_out", "mmcv")
    mode = getattr(module, "mode", None)
    if mode not in INSTANTIATIONS:
        raise NotConvertibleError(f"its mode must be one of {', '.join(INSTANTIATIONS)}; it is {mode!r}")
    parts = next((each for each in found if each.instantiation == mode), None)
    if parts is None:
        raise NotConvertibleError(
            f"its mode is {mode!r} and its layers are those of {found[0].instantiation!r}"
        )
    is_scaled = mode == "embedded_gaussian" and getattr(module, "use_scale", False)
    return (replace(parts, scale=parts.inner**-0.5 if is_scaled else 1.0),)


def _read_pooled_after(module: nn.Module, last: str, source: str) -> tuple[Parts, ...]:
    """Read the layout in which phi and g are each followed by a pool, or neither is."""
    g, after_g = convolution_and_rest(module, "g")
    W_z, after_W_z = convolution_and_rest(module, last)
    w_f = rectified_convolution(module, "concat_project")
    theta = phi = None
    instantiations: tuple[Instantiation, ...] = ("gaussian",)
    if layers(module, "theta"):
        theta = convolution(module, "theta")
        phi, after_phi = convolution_and_rest(module, "phi")
        # AlexHex7's last two have the same class names, layers and attributes.
        instantiations = ("concatenation",) if w_f is not None else ("embedded_gaussian", "dot_product")
    elif w_f is not None:
        raise NotConvertibleError("it concatenates theta and phi and has no theta")
    else:
        after_phi = layers(module, "phi")
    window = window_of(after_g)
    if window_of(after_phi) != window:
        raise NotConvertibleError("only one of phi and g is pooled, or each by a window of its own")
    return tuple(
        Parts(
            source=source,
            instantiation=instantiation,
            theta=theta,
            phi=phi,
            g=g,
            W_z=W_z,
            norm=norm_of(after_W_z),
            w_f=w_f,
            sub_sample=None if window is None else "after",
            pool_size=pool_size_of(window),
        )
        for instantiation in instantiations
    )


def _read_pooled_before(module: nn.Module) -> tuple[Parts, ...]:
    """Read SlowFast's layout and pytorchvideo's, which pool x before phi and g."""
    kinds: dict[object, Instantiation] = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}
    kind = getattr(module, "instantiation", None)
    if kind not in kinds:
        raise NotConvertibleError(f"its instantiation must be 'softmax' or 'dot_product'; it is {kind!r}")
    theta = convolution(module, "conv_theta")
    window = window_of(layers(module, "pool"))
    parts = Parts(
        source="SlowFast" if hasattr(module, "dim_inner") else "pytorchvideo",
        instantiation=kinds[kind],
        theta=theta,
        phi=convolution(module, "conv_phi"),
        g=convolution(module, "conv_g"),
        W_z=convolution(module, "conv_out"),
        norm=norm_of(layers(module, "norm") + layers(module, "bn")),
        sub_sample=None if window is None else "before",
        pool_size=pool_size_of(window),
        scale=theta.out_channels**-0.5,
    )
    return (parts,)


def _read_timm(module: nn.Module) -> tuple[Parts, ...]:
    scale = getattr(module, "scale", None)
    if not isinstance(scale, float | int):
        raise NotConvertibleError(f"its scale must be a number; it is {scale!r}")
    parts = Parts(
        source="timm",
        instantiation="embedded_gaussian",
        theta=convolution(module, "t"),
        phi=convolution(module, "p"),
        g=convolution(module, "g"),
        W_z=convolution(module, "z"),
        norm=norm_of(layers(module, "norm")),
        scale=float(scale),
    )
    return (parts,)


_LAYOUTS = (
    _Layout(frozenset({"g", "W"}), frozenset({"theta", "phi", "concat_project"}), _read_alexhex7),
    _Layout(frozenset({"g", "conv_out"}), frozenset({"theta", "phi", "concat_project"}), _read_mmcv, "mode"),
    _Layout(
        frozenset({"conv_theta", "conv_phi", "conv_g", "conv_out"}),
        frozenset({"pool", "norm", "bn"}),
        _read_pooled_before,
        "instantiation",
    ),
    _Layout(frozenset({"t", "p", "g", "z"}), frozenset({"norm"}), _read_timm),
)
