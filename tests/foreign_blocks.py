"""The non-local modules of other libraries, rebuilt from the facts known of them.

Class names, names of layers and attributes, order of pooling, scale and norm are theirs; the arithmetic is
written here, straight from the equations.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from helpers import randomize_

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS = {1: nn.MaxPool1d(2), 2: nn.MaxPool2d((2, 2)), 3: nn.MaxPool3d((1, 2, 2))}
KINDS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def weights(kind, theta, phi, *, scale=1.0, project=None):
    """f / C for maps theta and phi, shape (B, N, M)."""
    theta, phi = theta.flatten(2), phi.flatten(2)
    if kind == "concatenation":
        num_queries, num_keys = theta.shape[2], phi.shape[2]
        rows = theta[..., None].expand(-1, -1, -1, num_keys)
        columns = phi[:, :, None].expand(-1, -1, num_queries, -1)
        return project(torch.cat([rows, columns], dim=1)).squeeze(1) / num_keys
    f = scale * torch.einsum("bdn,bdm->bnm", theta, phi)
    return f / phi.shape[2] if kind == "dot_product" else F.softmax(f, dim=2)


def averaged(affinity, g, x):
    return torch.einsum("bnm,bem->ben", affinity, g.flatten(2)).reshape(len(x), -1, *x.shape[2:])


def followed_by(layer, pool):
    return layer if pool is None else nn.Sequential(layer, pool)


class _NonLocalBlockND(nn.Module):
    """AlexHex7's four files hold classes of the same names; here `kind` of the class tells the file."""

    kind: str
    dimension: int

    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__()
        self.sub_sample, self.in_channels = sub_sample, in_channels
        self.inter_channels = inter_channels or max(in_channels // 2, 1)
        conv = CONVOLUTIONS[self.dimension]
        pool = POOLS[self.dimension] if sub_sample else None
        self.g = followed_by(conv(in_channels, self.inter_channels, 1), pool)
        self.W = conv(self.inter_channels, in_channels, 1)
        if bn_layer:
            self.W = nn.Sequential(self.W, NORMS[self.dimension](in_channels))
        if self.kind != "gaussian":
            self.theta = conv(in_channels, self.inter_channels, 1)
            self.phi = followed_by(conv(in_channels, self.inter_channels, 1), pool)
        elif sub_sample:
            self.phi = pool
        if self.kind == "concatenation":
            self.concat_project = nn.Sequential(
                nn.Conv2d(2 * self.inter_channels, 1, 1, bias=False), nn.ReLU()
            )

    def forward(self, x, return_nl_map=False):
        theta = x if self.kind == "gaussian" else self.theta(x)
        phi = self.phi(x) if hasattr(self, "phi") else x
        affinity = weights(self.kind, theta, phi, project=getattr(self, "concat_project", None))
        z = self.W(averaged(affinity, self.g(x), x)) + x
        return (z, affinity) if return_nl_map else z


def alexhex7(kind, dimension, **settings):
    its_class = type(
        f"NONLocalBlock{dimension}D", (_NonLocalBlockND,), {"kind": kind, "dimension": dimension}
    )
    return its_class(6, **settings)


class ConvModule(nn.Module):
    """mmcv's: a norm takes the place of the bias, and its name depends on its kind."""

    def __init__(self, conv, norm=None, activate=None):
        super().__init__()
        self.conv, self.norm_name = conv, "bn" if norm is not None else None
        if norm is not None:
            self.bn = norm
        if activate is not None:
            self.activate = activate

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class _NonLocalNd(nn.Module):
    """mmcv's."""

    dimension: int

    def __init__(self, in_channels, reduction=2, use_scale=True, norm=True, mode="", sub_sample=False):
        super().__init__()
        self.in_channels, self.reduction, self.use_scale = in_channels, reduction, use_scale
        self.inter_channels = max(in_channels // reduction, 1)
        self.mode, self.sub_sample = mode, sub_sample
        conv = CONVOLUTIONS[self.dimension]
        pool = POOLS[self.dimension] if sub_sample else None
        self.g = followed_by(ConvModule(conv(in_channels, self.inter_channels, 1)), pool)
        self.conv_out = ConvModule(
            conv(self.inter_channels, in_channels, 1, bias=not norm),
            NORMS[self.dimension](in_channels) if norm else None,
        )
        if mode != "gaussian":
            self.theta = ConvModule(conv(in_channels, self.inter_channels, 1))
            self.phi = followed_by(ConvModule(conv(in_channels, self.inter_channels, 1)), pool)
        elif sub_sample:
            self.phi = pool
        if mode == "concatenation":
            project = nn.Conv2d(2 * self.inter_channels, 1, 1, bias=False)
            self.concat_project = ConvModule(project, activate=nn.ReLU(inplace=True))

    def forward(self, x):
        theta = x if self.mode == "gaussian" else self.theta(x)
        phi = self.phi(x) if hasattr(self, "phi") else x
        scaled = self.mode == "embedded_gaussian" and self.use_scale
        affinity = weights(
            self.mode,
            theta,
            phi,
            scale=self.inter_channels**-0.5 if scaled else 1.0,
            project=getattr(self, "concat_project", None),
        )
        return x + self.conv_out(averaged(affinity, self.g(x), x))


def mmcv(kind, dimension, **settings):
    its_class = type(f"NonLocal{dimension}d", (_NonLocalNd,), {"dimension": dimension})
    return its_class(6, mode=kind, **settings)


class _PooledBefore(nn.Module):
    def forward(self, x):
        keys = self.pool(x) if getattr(self, "pool", None) is not None else x
        kind = "dot_product" if self.instantiation == "dot_product" else "embedded_gaussian"
        theta = self.conv_theta(x)
        scale = theta.shape[1] ** -0.5 if kind == "embedded_gaussian" else 1.0
        affinity = weights(kind, theta, self.conv_phi(keys), scale=scale)
        z = self.conv_out(averaged(affinity, self.conv_g(keys), x))
        if getattr(self, "norm", None) is not None:
            z = self.norm(z)
        return x + z


class Nonlocal(_PooledBefore):
    """SlowFast's; without pooling and without norm it lacks those attributes."""

    def __init__(self, dim, dim_inner, pool_size=None, instantiation="softmax", norm_type="batchnorm"):
        super().__init__()
        self.dim, self.dim_inner, self.pool_size = dim, dim_inner, pool_size
        self.instantiation, self.norm_type = instantiation, norm_type
        self.use_pool = pool_size is not None and max(pool_size) > 1
        self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(dim, dim_inner, 1) for _ in range(3))
        self.conv_out = nn.Conv3d(dim_inner, dim, 1)
        if norm_type == "batchnorm":
            self.norm = nn.BatchNorm3d(dim, eps=1e-4, momentum=0.2)
        elif norm_type == "layernorm":
            self.norm = nn.GroupNorm(1, dim, affine=False)
        if self.use_pool:
            self.pool = nn.MaxPool3d(pool_size, stride=pool_size, padding=[0, 0, 0])


def slowfast(kind, dimension, *, pool, norm):
    assert dimension == 3
    return Nonlocal(6, 4, (1, 2, 2) if pool else (1, 1, 1), kind, "batchnorm" if norm else "none")


class NonLocal(_PooledBefore):
    """pytorchvideo's: it is given its layers; what is left out is None."""

    def __init__(self, *, conv_theta, conv_phi, conv_g, conv_out, pool=None, norm=None, instantiation):
        super().__init__()
        self.conv_theta, self.conv_phi, self.conv_g, self.conv_out = conv_theta, conv_phi, conv_g, conv_out
        self.pool, self.norm, self.instantiation = pool, norm, instantiation


def pytorchvideo(kind, dimension, *, pool, norm):
    assert dimension == 3
    return NonLocal(
        **{f"conv_{name}": nn.Conv3d(6, 4, 1) for name in ("theta", "phi", "g")},
        conv_out=nn.Conv3d(4, 6, 1),
        pool=nn.MaxPool3d((1, 2, 2), (1, 2, 2), [0, 0, 0]) if pool else None,
        norm=nn.BatchNorm3d(6) if norm else None,
        instantiation=kind,
    )


class NonLocalAttn(nn.Module):
    """timm's: scaled by the width of x, not of theta."""

    def __init__(self, in_channels, use_scale=True, rd_channels=4):
        super().__init__()
        self.scale = in_channels**-0.5 if use_scale else 1.0
        self.t, self.p, self.g = (nn.Conv2d(in_channels, rd_channels, 1) for _ in range(3))
        self.z = nn.Conv2d(rd_channels, in_channels, 1)
        self.norm = nn.BatchNorm2d(in_channels)

    def forward(self, x):
        affinity = weights("embedded_gaussian", self.t(x), self.p(x), scale=self.scale)
        return self.norm(self.z(averaged(affinity, self.g(x), x))) + x


def timm(kind, dimension, *, use_scale):
    assert (kind, dimension) == ("softmax", 2)
    return NonLocalAttn(6, use_scale=use_scale)


@dataclass(frozen=True)
class Case:
    """One module of another library in one setting."""

    make: Any
    kind: str
    dimension: int
    settings: tuple[tuple[str, bool], ...]

    def build(self):
        return randomize_(self.make(self.kind, self.dimension, **dict(self.settings)))

    @property
    def ours(self):
        """What the kind is called here."""
        return "embedded_gaussian" if self.kind == "softmax" else self.kind

    @property
    def source(self):
        return {"alexhex7": "AlexHex7", "slowfast": "SlowFast"}.get(self.make.__name__, self.make.__name__)

    @property
    def row(self):
        scaled = ", scaled" if dict(self.settings).get("use_scale") else ""
        return self.source, self.kind.replace("_", " ") + scaled, f"{self.dimension}D"

    @property
    def column(self):
        on = {"norm": True, **dict(self.settings)}
        pooled, normed = on.get("sub_sample", on.get("pool")), on.get("bn_layer", on["norm"])
        return ", ".join(name for name, is_on in (("pool", pooled), ("norm", normed)) if is_on) or "neither"

    @property
    def id(self):
        return "-".join((*self.row, self.column)).replace(", ", "+").replace(" ", "_")


def _cases():
    both = (True, False)
    for dimension in (1, 2, 3):
        for kind in KINDS:
            for pool in both:
                for norm in both:
                    settings = (("sub_sample", pool), ("bn_layer", norm))
                    yield Case(alexhex7, kind, dimension, settings)
                    for use_scale in both if kind == "embedded_gaussian" else (False,):
                        settings = (("sub_sample", pool), ("norm", norm), ("use_scale", use_scale))
                        yield Case(mmcv, kind, dimension, settings)
    for make in (slowfast, pytorchvideo):
        for kind in ("softmax", "dot_product"):
            for pool in both:
                for norm in both:
                    yield Case(make, kind, 3, (("pool", pool), ("norm", norm)))
    for use_scale in both:
        yield Case(timm, "softmax", 2, (("use_scale", use_scale),))


CASES = sorted(_cases(), key=lambda case: case.row)
