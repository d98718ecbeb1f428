"""The non-local block, z = W_z y + x, for sequences, images and video."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

import nonlocalnn.functional as functional
from nonlocalnn._errors import check_choice
from nonlocalnn.functional import INSTANTIATIONS, SOFTMAX_INSTANTIATIONS, Instantiation, non_local
from nonlocalnn.functional.geometry import Extent, Geometry, Sides, geometry_of
from nonlocalnn.functional.layers import (
    BatchNorm,
    Convolution,
    call_unnarrowed,
    does_more,
    embedded,
    first_parameter,
    fold_norm,
    has_global_hooks,
    is_constant,
    is_plain,
    is_traced,
    weights_of,
)
from nonlocalnn.functional.positions import add_projection, as_map, flatten, fold, project_back, widen
from nonlocalnn.functional.split import rectified_non_local
from nonlocalnn.functional.splitting import group_of

SubSample = Literal["after", "before"] | None
Norm = Literal["batch"] | None

# A matrix of a million by a million fits into no memory.
_MOST_CHANNELS = 2**20

# torch.fx then records each as one node instead of tracing through its arithmetic on shapes.
for _leaf in (
    "add_projection",
    "as_map",
    "flatten",
    "fold",
    "geometry_of",
    "group_of",
    "non_local",
    "project_back",
    "rectified_non_local",
    "widen",
):
    torch.fx.wrap(_leaf)


class NonLocalNd(nn.Module):
    r"""Non-local block over maps of any rank; use `NonLocal1d`, `NonLocal2d` or `NonLocal3d`.

    .. math:: z_i = W_z y_i + x_i, \quad y_i = \frac{1}{C(x)} \sum_j f(x_i, x_j)\, g(x_j)

    theta, phi, g and W_z are 1x1 convolutions with bias. At ``zero_init`` the block is the identity, so
    that it can be put into a trained network. State-dict keys are ``theta``, ``phi``, ``g``, ``W_z``,
    ``norm`` and ``w_f``; a setting decides which of them exist, never how one is called.

    Differs from the paper in nothing by default. ``sub_sample="before"`` with ``use_scale=True`` is what
    the paper's released code computes.

    Shape:
        - Input: (B, in_channels, \*sides), with sides (N,), (H, W) or (T, H, W), each at least 1; B may be 0.
        - Output: the same, in the same memory format and type.

    Args:
        in_channels: Channels of the map, C.
        inter_channels: Channels of theta, phi and g; None is C / 2, at least 1.
        instantiation: The pairwise function f, see :func:`nonlocalnn.functional.non_local`. "gaussian" has
            no theta and phi.
        sub_sample: Max-pool the keys by 2 (1D), (2, 2) or (1, 2, 2): "after" phi and g as in the paper,
            "before" them as in its released code, or None. Odd sides floor; a side of 1 is not pooled.
        use_scale: Multiply the logits by 1 / sqrt(inter_channels); the two Gaussian forms only.
        norm: "batch" puts a batch normalisation after W_z; None has none.
        zero_init: Start as the identity: the weight and bias of the norm, or of W_z where there is no norm,
            are zero.
        extent: Which positions of a video see each other: "spacetime" all, "space" those of one frame,
            "time" those of one location (as a sequence: sub-sampling then pools T), or a number of
            consecutive frames a group.

    Raises:
        ValueError: A setting is unknown or would have no effect, or an input does not fit.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, eq. (6) and section 3.3.

    Example:
        >>> block = NonLocal2d(8)
        >>> x = torch.randn(2, 8, 6, 5)
        >>> torch.equal(block(x), x)
        True
    """

    _num_sides: ClassVar[int]
    _conv: ClassVar[type[Convolution]]
    _batch_norm: ClassVar[type[BatchNorm]]

    def __init__(
        self,
        in_channels: int,
        *,
        inter_channels: int | None = None,
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: SubSample = "after",
        use_scale: bool = False,
        norm: Norm = "batch",
        zero_init: bool = True,
        extent: Extent = "spacetime",
    ) -> None:
        super().__init__()
        inter_channels = max(1, in_channels // 2) if inter_channels is None else inter_channels
        self._check_settings(
            in_channels, inter_channels, instantiation, sub_sample, use_scale, norm, zero_init, extent
        )
        self.in_channels = in_channels
        self.inter_channels = inter_channels
        self.instantiation = instantiation
        self.sub_sample = sub_sample
        self.use_scale = use_scale
        self.zero_init = zero_init
        self.extent = extent
        conv = self._conv
        embeds = instantiation != "gaussian"
        self.theta = conv(in_channels, inter_channels, 1) if embeds else None
        self.phi = conv(in_channels, inter_channels, 1) if embeds else None
        self.g = conv(in_channels, inter_channels, 1)
        self.W_z = conv(inter_channels, in_channels, 1)
        # Without a norm there are no norm keys: a checkpoint holds no parameters that do nothing.
        self.norm = self._batch_norm(in_channels) if norm == "batch" else None
        concatenates = instantiation == "concatenation"
        self.w_f = nn.Parameter(torch.empty(2 * inter_channels)) if concatenates else None
        self.reset_parameters()

    def _check_settings(
        self,
        in_channels: int,
        inter_channels: int,
        instantiation: str,
        sub_sample: str | None,
        use_scale: bool,
        norm: str | None,
        zero_init: bool,
        extent: str | int,
    ) -> None:
        for name, value in (("in_channels", in_channels), ("inter_channels", inter_channels)):
            if not isinstance(value, int) or not 1 <= value <= _MOST_CHANNELS:
                raise ValueError(
                    f"{name} must be a whole number of at least 1; got {repr(value)[:80]} (at most "
                    f"{_MOST_CHANNELS})"
                )
        check_choice("instantiation", instantiation, INSTANTIATIONS)
        check_choice("sub_sample", sub_sample, ("after", "before", None))
        check_choice("norm", norm, ("batch", None))
        check_choice("use_scale", use_scale, (True, False))
        check_choice("zero_init", zero_init, (True, False))
        if use_scale and instantiation not in SOFTMAX_INSTANTIATIONS:
            raise ValueError(
                f"use_scale scales the logits of the softmax and {instantiation!r} has none: leave it False"
            )
        if isinstance(extent, int) and not isinstance(extent, bool):
            if extent < 1:
                raise ValueError(f"extent, as a number of frames, must be at least 1; got {extent}")
        else:
            check_choice("extent", extent, ("spacetime", "space", "time"))
        if self._num_sides != 3 and extent != "spacetime":
            raise ValueError(f"extent is a setting of NonLocal3d: NonLocal{self._num_sides}d has no frames")

    def reset_parameters(self) -> None:
        """Draw new weights, and make the block the identity again where ``zero_init`` asks for it."""
        for layer in (self.theta, self.phi, self.g, self.W_z, self.norm):
            if layer is not None:
                layer.reset_parameters()
        if self.w_f is not None:
            bound = 1 / math.sqrt(self.w_f.numel())
            nn.init.uniform_(self.w_f, -bound, bound)
        if self.zero_init:
            last = self.W_z if self.norm is None else self.norm
            for parameter in (last.weight, last.bias):
                assert parameter is not None  # both are made by default
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return z, of the shape, memory format and type of ``x``.

        Raises:
            ValueError: The rank, the channels or the type of ``x`` does not fit, or the number of frames is
                no multiple of ``extent``.
        """
        places = geometry_of(x, self.in_channels, self._num_sides, self.extent)
        ranks = group_of(places, self.sub_sample)
        plain = self._has_plain_layers(x)
        if self.instantiation == "concatenation":
            y = self._concatenate(x, places, ranks, plain)
        else:
            theta, phi, g = self._embed(x, places, *self._embeddings(plain))
            # Under autocast g is narrower than x, which is theta and phi of the Gaussian.
            is_symmetric, theta = phi is theta, theta.to(g.dtype)
            phi = theta if is_symmetric else phi.to(g.dtype)
            if self.instantiation == "dot_product":
                theta, phi, g = (widen(part, first_parameter(self.W_z)) for part in (theta, phi, g))
            y = non_local(
                theta, phi, g, instantiation=self.instantiation, scale=self.scale, process_group=ranks
            )
        y = places.ungroup(y, x.shape[0])
        if not plain:
            z = call_unnarrowed(self.W_z, as_map(y, x))
            return x + (z if self.norm is None else self.norm(z)).to(x.dtype)
        if self.norm is None:
            return add_projection(y, weights_of(self.W_z), x)
        # Folding saves two passes over the map. Fresh memory for such temporaries took a third of the time of
        # the concatenation form at (1, 512, 16, 28, 28).
        # A graph traced by torch.fx keeps the norm as it is: it may be switched to train mode later.
        if is_constant(self.norm) and not does_more(self.norm) and not is_traced(x):
            return add_projection(y, fold_norm(self.W_z, self.norm), x)
        z = self.norm(project_back(y, weights_of(self.W_z), x))
        return x + z.to(x.dtype)

    def affinity(self, x: Tensor) -> Tensor:
        """Return f(x_i, x_j) / C(x) for a map x, shape (B, N, M).

        Positions are in the order of the map's sides, the last one fastest; the keys' sides are those of
        :meth:`key_sides`. With an ``extent`` other than "spacetime" the groups of a clip follow one another
        in the first dimension: (B * groups, N, M).

        Args:
            x: What :meth:`forward` takes.

        Memory:
            O(N M).

        Example:
            >>> NonLocal1d(8).affinity(torch.randn(2, 8, 10)).shape
            torch.Size([2, 10, 5])
        """
        theta, phi, _ = self.embed(x)
        return functional.affinity(
            theta,
            phi,
            instantiation=self.instantiation,
            w_f=self.w_f,
            scale=self.scale,
        )

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta, phi and g of a map x as eq. (1) takes them: pooled, and grouped.

        Args:
            x: What :meth:`forward` takes.

        Returns:
            theta (B * groups, N, D), phi (B * groups, M, D) and g (B * groups, M, E); see :meth:`affinity`
            for the order of positions. Those of the Gaussian form are x itself, D = in_channels.

        Example:
            >>> [tuple(part.shape) for part in NonLocal1d(8).embed(torch.randn(2, 8, 10))]
            [(2, 10, 4), (2, 5, 4), (2, 5, 4)]
        """
        places = geometry_of(x, self.in_channels, self._num_sides, self.extent)
        return self._embed(x, places, *self._embeddings(self._has_plain_layers(x)))

    @property
    def scale(self) -> float | None:
        """Factor on the logits: 1 / sqrt(inter_channels) with ``use_scale``, else None, which is 1."""
        return self.inter_channels**-0.5 if self.use_scale else None

    def key_sides(self, sides: Sides) -> Sides:
        """Return the sides of the map of keys for an input with these sides."""
        return sides if self.sub_sample is None else Geometry(sides, self.extent).pooled().sides

    def group_sides(self, sides: Sides) -> Sides:
        """Return the sides of one group, the positions that see each other, of a map with these sides."""
        return Geometry(sides, self.extent).group_sides

    def _has_plain_layers(self, x: Tensor) -> bool:
        """Return whether the weights of theta, phi, g and W_z say all that calling these layers would do.

        Weights are read where that is so, which is faster. Else the layers are called: adapters, hooks,
        pruning, parametrizations, and whoever shards or moves weights only when a layer is called.
        """
        device = None if is_traced(x) else x.device
        layers = (self.theta, self.phi, self.g, self.W_z)
        return not has_global_hooks() and all(
            layer is None or is_plain(layer, self._conv, device) for layer in layers
        )

    def _concatenate(
        self, x: Tensor, places: Geometry, ranks: dist.ProcessGroup | None, plain: bool
    ) -> Tensor:
        """Return y from two scalars a position; plain layers build no theta, and phi only to pool it."""
        theta, phi, g = self._embeddings(plain)
        assert self.w_f is not None
        w_theta, w_phi = self.w_f[: self.inter_channels], self.w_f[self.inter_channels :]
        folds_phi = plain and self.sub_sample != "after"
        if plain:
            theta = fold(theta, w_theta)
        a, b, g = self._embed(x, places, theta, fold(phi, w_phi) if folds_phi else phi, g)
        if not plain:
            a = a @ w_theta.unsqueeze(1).to(a.dtype)
        if not folds_phi:
            b = b @ w_phi.unsqueeze(1).to(b.dtype)
        a, b, g = (widen(part, first_parameter(self.W_z)) for part in (a, b, g))
        return rectified_non_local(a.squeeze(2), b.squeeze(2), g, process_group=ranks)

    def _embed(
        self, x: Tensor, places: Geometry, theta_layer: Any, phi_layer: Any, g_layer: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, the keys and g, pooled and grouped; without layers the first two are x itself.

        They are one and the same tensor where that is all that they are.
        """
        key_places = places if self.sub_sample is None else places.pooled()
        if theta_layer is None or phi_layer is None:
            keys = x if self.sub_sample is None else places.pool_map(x)
            (g,) = embedded(keys if self.sub_sample == "before" else x, g_layer)
            theta = places.group(flatten(x))
            phi = theta if self.sub_sample is None else key_places.group(flatten(keys))
        else:
            if self.sub_sample == "before":
                (theta,) = embedded(x, theta_layer)
                phi, g = embedded(places.pool_map(x), phi_layer, g_layer)
            else:
                theta, phi, g = embedded(x, theta_layer, phi_layer, g_layer)
            theta = places.group(theta)
            phi = key_places.group(places.pool(phi) if self.sub_sample == "after" else phi)
        return theta, phi, key_places.group(places.pool(g) if self.sub_sample == "after" else g)

    def _embeddings(self, plain: bool) -> tuple[Any, Any, Any]:
        """Return theta, phi and g: as weights where they are plain, else as the layers themselves."""
        theta, phi, g = self.theta, self.phi, self.g
        if not plain:
            return theta, phi, g
        if theta is None or phi is None:
            return None, None, weights_of(g)
        return weights_of(theta), weights_of(phi), weights_of(g)

    def __prepare_scriptable__(self) -> NoReturn:
        """Say what to do instead: what TorchScript's compiler would say of the block helps nobody."""
        raise TypeError(
            "a non-local block cannot be compiled by torch.jit.script: use torch.jit.trace(model, example), "
            "torch.export, or nonlocalnn export"
        )

    def extra_repr(self) -> str:
        """Name the settings that the layers do not show."""
        return (
            f"instantiation={self.instantiation!r}, sub_sample={self.sub_sample!r}, "
            f"use_scale={self.use_scale}, extent={self.extent!r}"
        )


class NonLocal1d(NonLocalNd):
    """Non-local block over sequences (B, C, N); see :class:`NonLocalNd`."""

    _num_sides, _conv, _batch_norm = 1, nn.Conv1d, nn.BatchNorm1d


class NonLocal2d(NonLocalNd):
    """Non-local block over images (B, C, H, W); see :class:`NonLocalNd`."""

    _num_sides, _conv, _batch_norm = 2, nn.Conv2d, nn.BatchNorm2d


class NonLocal3d(NonLocalNd):
    """Non-local block over video (B, C, T, H, W); see :class:`NonLocalNd`."""

    _num_sides, _conv, _batch_norm = 3, nn.Conv3d, nn.BatchNorm3d


# By the number of sides, from 1.
BLOCKS: tuple[type[NonLocalNd], ...] = (NonLocal1d, NonLocal2d, NonLocal3d)


def nonlocal_blocks(model: nn.Module) -> dict[str, NonLocalNd]:
    """Return all non-local blocks of a network by their names, inserted or not, in the network's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, NonLocalNd)}
