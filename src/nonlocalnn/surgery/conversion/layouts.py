"""What the non-local modules of other libraries are made of, one function a layout.

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

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nonlocalnn.blocks import BLOCKS, NonLocalNd, SubSample
from nonlocalnn.functional import INSTANTIATIONS, Instantiation
from nonlocalnn.functional.layers import Convolution
from nonlocalnn.surgery.conversion.layers import (
    NotConvertibleError,
    batch_norm,
    convolution,
    convolution_and_rest,
    layers,
    pools,
    rectified_convolution,
)

_CLASS_NAMES = {
    *("_NonLocalBlockND", "NONLocalBlock1D", "NONLocalBlock2D", "NONLocalBlock3D"),  # AlexHex7
    *("_NonLocalNd", "NonLocal1d", "NonLocal2d", "NonLocal3d"),  # mmcv
    *("Nonlocal", "NonLocal", "NonLocalAttn"),  # SlowFast, pytorchvideo, timm
}


@dataclass(frozen=True)
class Parts:
    """The layers of a foreign module, by our names, and what it does with them.

    Args:
        source: The library.
        instantiations: The pairwise functions that these layers allow; two where only a run tells.
        theta: None in the Gaussian, and so is ``phi``.
        phi: See ``theta``.
        g: As wide as theta and phi.
        W_z: Back to the width of x.
        norm: After W_z.
        w_f: The convolution of the concatenation form, to one channel.
        sub_sample: As in our block.
        scale: What multiplies the logits of a softmax.
    """

    source: str
    instantiations: tuple[Instantiation, ...]
    theta: Convolution | None
    phi: Convolution | None
    g: Convolution
    W_z: Convolution
    norm: _BatchNorm | None
    w_f: Convolution | None
    sub_sample: SubSample
    scale: float = 1.0

    @property
    def block(self) -> type[NonLocalNd]:
        """Our class for maps of this rank."""
        return next(block for block in BLOCKS if isinstance(self.g, block._conv))


@dataclass(frozen=True)
class _Layout:
    required: frozenset[str]
    optional: frozenset[str]
    read: Callable[[nn.Module], Parts]


def is_candidate(module: nn.Module) -> bool:
    """Return whether a module has the class name or the layers of a non-local module that is not ours."""
    if isinstance(module, NonLocalNd):
        return False
    names = {base.__name__ for base in type(module).__mro__}
    return not names.isdisjoint(_CLASS_NAMES) or _layout(module) is not None


def read(module: nn.Module) -> Parts:
    """Return what a candidate is made of.

    Raises:
        NotConvertibleError: Our block has no place for one of its layers or settings.
    """
    layout = _layout(module)
    if layout is None:
        names = ", ".join(name for name, _ in module.named_children()) or "none"
        raise NotConvertibleError(f"its layers ({names}) are not those of a known non-local module")
    if any(_has_hooks(part) for part in module.modules()):
        raise NotConvertibleError("it has hooks, which would be lost: remove them first")
    parts = layout.read(module)
    _check_widths(parts)
    return parts


def _layout(module: nn.Module) -> _Layout | None:
    children = {name for name, _ in module.named_children()}
    fitting = (each for each in _LAYOUTS if each.required <= children <= each.required | each.optional)
    return next(fitting, None)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _read_alexhex7(module: nn.Module) -> Parts:
    return _read_pooled_after(module, "W", "AlexHex7")


def _read_mmcv(module: nn.Module) -> Parts:
    parts = _read_pooled_after(module, "conv_out", "mmcv")
    mode = getattr(module, "mode", None)
    if mode not in INSTANTIATIONS:
        raise NotConvertibleError(f"its mode must be one of {', '.join(INSTANTIATIONS)}; it is {mode!r}")
    if mode not in parts.instantiations:
        raise NotConvertibleError(
            f"its mode is {mode!r} and its layers are those of {parts.instantiations[0]!r}"
        )
    is_scaled = mode == "embedded_gaussian" and getattr(module, "use_scale", False)
    return replace(parts, instantiations=(mode,), scale=parts.g.out_channels**-0.5 if is_scaled else 1.0)


def _read_pooled_after(module: nn.Module, last: str, source: str) -> Parts:
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
    if pools(after_phi) != pools(after_g):
        raise NotConvertibleError("only one of phi and g is pooled")
    return Parts(
        source=source,
        instantiations=instantiations,
        theta=theta,
        phi=phi,
        g=g,
        W_z=W_z,
        norm=batch_norm(after_W_z),
        w_f=w_f,
        sub_sample="after" if pools(after_g) else None,
    )


def _read_pooled_before(module: nn.Module) -> Parts:
    """Read SlowFast's layout and pytorchvideo's, which pool x before phi and g."""
    kinds: dict[object, Instantiation] = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}
    kind = getattr(module, "instantiation", None)
    if kind not in kinds:
        raise NotConvertibleError(f"its instantiation must be 'softmax' or 'dot_product'; it is {kind!r}")
    g = convolution(module, "conv_g")
    return Parts(
        source="SlowFast" if hasattr(module, "dim_inner") else "pytorchvideo",
        instantiations=(kinds[kind],),
        theta=convolution(module, "conv_theta"),
        phi=convolution(module, "conv_phi"),
        g=g,
        W_z=convolution(module, "conv_out"),
        norm=batch_norm(layers(module, "norm") + layers(module, "bn")),
        w_f=None,
        sub_sample="before" if pools(layers(module, "pool")) else None,
        scale=g.out_channels**-0.5,
    )


def _read_timm(module: nn.Module) -> Parts:
    scale = getattr(module, "scale", None)
    if not isinstance(scale, float | int):
        raise NotConvertibleError(f"its scale must be a number; it is {scale!r}")
    return Parts(
        source="timm",
        instantiations=("embedded_gaussian",),
        theta=convolution(module, "t"),
        phi=convolution(module, "p"),
        g=convolution(module, "g"),
        W_z=convolution(module, "z"),
        norm=batch_norm(layers(module, "norm")),
        w_f=None,
        sub_sample=None,
        scale=float(scale),
    )


_LAYOUTS = (
    _Layout(frozenset({"g", "W"}), frozenset({"theta", "phi", "concat_project"}), _read_alexhex7),
    _Layout(frozenset({"g", "conv_out"}), frozenset({"theta", "phi", "concat_project"}), _read_mmcv),
    _Layout(
        frozenset({"conv_theta", "conv_phi", "conv_g", "conv_out"}),
        frozenset({"pool", "norm", "bn"}),
        _read_pooled_before,
    ),
    _Layout(frozenset({"t", "p", "g", "z"}), frozenset({"norm"}), _read_timm),
)


def _check_widths(parts: Parts) -> None:
    """Check that theta, phi and g are equally wide, W_z leads back, and all are of one rank."""
    inner, outer, kind = parts.g.out_channels, parts.g.in_channels, parts.block._conv
    for name, layer, widths in (
        ("theta", parts.theta, (outer, inner)),
        ("phi", parts.phi, (outer, inner)),
        ("W_z", parts.W_z, (inner, outer)),
    ):
        if layer is None:
            continue
        if not isinstance(layer, kind) or (layer.in_channels, layer.out_channels) != widths:
            raise NotConvertibleError(f"{name} does not fit g: one is {layer}, the other {parts.g}")
    if parts.w_f is not None and parts.w_f.in_channels != 2 * inner:
        raise NotConvertibleError(f"concat_project must take {2 * inner} channels; it is {parts.w_f}")
    if parts.norm is not None and parts.norm.num_features != outer:
        raise NotConvertibleError(f"its norm must be of {outer} channels; it is {parts.norm}")
