"""The non-local block, z = W_z y + x, for sequences, images and video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

import nonlocalnn.functional as functional
from nonlocalnn._errors import check_module
from nonlocalnn.functional import Instantiation, non_local
from nonlocalnn.functional.calls import Call, check_replicas, operands_of, read_call
from nonlocalnn.functional.geometry import Extent, Geometry, Sides, geometry_of
from nonlocalnn.functional.heads import dot_heads, join_heads, repeat_for_heads, split_heads
from nonlocalnn.functional.layers import (
    BatchNorm,
    Convolution,
    call_unnarrowed,
    does_more,
    first_parameter,
    fold_norm,
    folding_pays,
    has_global_hooks,
    is_constant,
    is_traced,
    plain_weights,
)
from nonlocalnn.functional.norms import Norm, make_norm, normalise
from nonlocalnn.functional.positions import add_projection, as_map, fold, project_back, widen
from nonlocalnn.functional.settings import Settings, SubSample
from nonlocalnn.functional.split import rectified_non_local

__all__ = [
    "BLOCKS",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "NonLocalNd",
    "Norm",
    "SubSample",
    "nonlocal_blocks",
]

# torch.fx then records each as one node instead of tracing through its arithmetic on shapes.
for _leaf in (
    "add_projection",
    "as_map",
    "dot_heads",
    "fold",
    "geometry_of",
    "join_heads",
    "non_local",
    "project_back",
    "rectified_non_local",
    "repeat_for_heads",
    "split_heads",
    "widen",
):
    torch.fx.wrap(_leaf)

# What blocks that were pickled before these settings existed lack.
_ADDED_SETTINGS = {"context_channels": None, "num_heads": 1, "pool_size": None}


class NonLocalNd(nn.Module):
    r"""Non-local block over maps of any rank; use `NonLocal1d`, `NonLocal2d` or `NonLocal3d`.

    .. math:: z_i = W_z y_i + x_i, \quad y_i = \frac{1}{C(x)} \sum_j f(x_i, x_j)\, g(x_j)

    theta, phi, g and W_z are 1x1 convolutions with bias. At ``zero_init`` the block is the identity, so
    that it can be put into a trained network. State-dict keys are ``theta``, ``phi``, ``g``, ``W_z``,
    ``norm``, ``w_f``, ``pre_norm`` and ``context_norm``; a setting decides which of them exist, never how one
    is called.

    Differs from the paper in nothing by default. ``sub_sample="before"`` with ``use_scale=True`` is what
    the paper's released code computes.

    Shape:
        - Input: (B, in_channels, \*sides), with sides (N,), (H, W) or (T, H, W), each at least 1; B may be 0.
        - Output: the same, in the same memory format and type.

    Args:
        in_channels: Channels of the map, C.
        inter_channels: Channels of theta and phi, D; None is C / 2, at least 1 (a multiple of the heads).
            "gaussian" has neither: there it is the width of g.
        value_channels: Channels of g, E; None is ``inter_channels``.
        context_channels: Channels of the map that phi and g read, where each call gives one of its own:
            ``block(x, context)``. None: they read x, or a context as wide as x.
        num_heads: Heads, each with its slice of the channels of theta, phi and g.
        instantiation: The pairwise function f, see :func:`nonlocalnn.functional.non_local`. "gaussian" has
            no theta and phi.
        sub_sample: Max-pool the keys: "after" phi and g as in the paper, "before" them as in its released
            code, or None. A rest of a side floors; a side shorter than the window is pooled whole.
        pool_size: The window of sub-sampling, a number for each side; None is 2 (1D), (2, 2) or (1, 2, 2).
        use_scale: Multiply the logits by 1 / sqrt(inter_channels / num_heads); the two Gaussian forms only.
        norm: What follows W_z: "batch", "group" (32 groups, or the most that divide both), "layer" (each
            position over its channels), None, or a function of the number of channels.
        pre_norm: What theta, phi and g read x through, as ``norm``; the sum is with x itself. Where there are
            ``context_channels`` the context has such a norm of its own, ``context_norm``.
        zero_init: Start as the identity: the weight and bias of the norm, or of W_z where there is no norm,
            are zero.
        extent: Which positions of a video see each other: "spacetime" all, "space" those of one frame,
            "time" those of one location (as a sequence: sub-sampling then pools T), or a number of
            consecutive frames a group.
        device: Where the weights are made; None is PyTorch's default.
        dtype: Their type; None is PyTorch's default.

    Raises:
        ValueError: A setting is unknown or would have no effect, or an input does not fit.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, eq. (6) and section 3.3.

    Example:
        >>> block = NonLocal2d(8)
        >>> x = torch.randn(2, 8, 6, 5)
        >>> torch.equal(block(x), x)
        True
        >>> onto = NonLocal2d(8, context_channels=3, num_heads=2, norm=None)
        >>> onto(x, torch.randn(2, 3, 9, 4)).shape
        torch.Size([2, 8, 6, 5])
    """

    _num_sides: ClassVar[int]
    _conv: ClassVar[type[Convolution]]
    _batch_norm: ClassVar[type[BatchNorm]]

    def __init__(
        self,
        in_channels: int,
        *,
        inter_channels: int | None = None,
        value_channels: int | None = None,
        context_channels: int | None = None,
        num_heads: int = 1,
        instantiation: Instantiation = "embedded_gaussian",
        sub_sample: SubSample = "after",
        pool_size: int | Sequence[int] | None = None,
        use_scale: bool = False,
        norm: Norm = "batch",
        pre_norm: Norm = None,
        zero_init: bool = True,
        extent: Extent = "spacetime",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        settings = Settings(
            self._num_sides,
            in_channels,
            inter_channels,
            value_channels,
            context_channels,
            num_heads,
            instantiation,
            sub_sample,
            pool_size,
            use_scale,
            zero_init,
            extent,
        )
        self.in_channels = in_channels
        self.inter_channels = settings.inner
        self.value_channels = settings.values
        self.context_channels = context_channels
        self.num_heads = num_heads
        self.instantiation = instantiation
        self.sub_sample = sub_sample
        self.pool_size = settings.window
        self.use_scale = use_scale
        self.zero_init = zero_init
        self.extent = extent
        with nullcontext() if device is None else torch.device(device):
            self._make_layers(norm, pre_norm)
        if dtype is not None:
            self.to(dtype)

    def _make_layers(self, norm: Norm, pre_norm: Norm) -> None:
        conv, in_channels = self._conv, self.in_channels
        has_own = self.context_channels is not None
        key_channels = in_channels if self.context_channels is None else self.context_channels
        embeds = self.instantiation != "gaussian"
        self.theta = conv(in_channels, self.inter_channels, 1) if embeds else None
        self.phi = conv(key_channels, self.inter_channels, 1) if embeds else None
        self.g = conv(key_channels, self.value_channels, 1)
        self.W_z = conv(self.value_channels, in_channels, 1)
        # Without a norm there are no norm keys: a checkpoint holds no parameters that do nothing.
        self.norm = make_norm(norm, in_channels, self._batch_norm, "norm")
        concatenates = self.instantiation == "concatenation"
        self.w_f = nn.Parameter(torch.empty(2 * self.inter_channels)) if concatenates else None
        self.pre_norm = make_norm(pre_norm, in_channels, self._batch_norm, "pre_norm")
        # A context of channels of its own has statistics of its own.
        self.context_norm = (
            make_norm(pre_norm, key_channels, self._batch_norm, "pre_norm") if has_own else None
        )
        self.reset_parameters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled state, also one from before some settings existed."""
        super().__setstate__(state)
        for name, value in {**_ADDED_SETTINGS, "value_channels": self.inter_channels}.items():
            self.__dict__.setdefault(name, value)
        for name in ("pre_norm", "context_norm"):
            self._modules.setdefault(name, None)

    def reset_parameters(self) -> None:
        """Draw new weights, and make the block the identity again where ``zero_init`` asks for it.

        Whoever resets layers one by one, as some do after ``to_empty``, calls this last: its norm's own reset
        ends the identity.
        """
        for layer in (self.theta, self.phi, self.g, self.W_z, self.norm, self.pre_norm, self.context_norm):
            # A norm by a function of one's own may have nothing to reset.
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
        if self.w_f is not None:
            bound = 1 / math.sqrt(self.w_f.numel())
            nn.init.uniform_(self.w_f, -bound, bound)
        if self.zero_init:
            last = self.W_z if self.norm is None else self.norm
            for parameter in (getattr(last, "weight", None), getattr(last, "bias", None)):
                if parameter is None:
                    raise ValueError(
                        "zero_init sets the weight and bias of the norm to zero, and the norm given, "
                        f"{type(last).__name__}, lacks one: give it both, or use zero_init=False"
                    )
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None, *, key_mask: Tensor | None = None) -> Tensor:
        """Return z, of the shape, memory format and type of ``x``.

        Args:
            x: The map of the queries.
            context: The map of the keys, (B, C', *sides) of any sides; None is x itself. With an ``extent``
                other than "spacetime" its groups are as many as those of x.
            key_mask: Which positions of the keys' map are real, (B, *sides), bool, before sub-sampling. Along
                one axis after another a pooled key is real if all positions of its window are; where that
                leaves a sample (a group, with an ``extent``) no key, those with any real position are. So a
                sample padded at its ends gives what it would alone, cropped. One without a real position has
                y = 0. See :func:`nonlocalnn.real_positions` for whole networks.

                Norms take their statistics over the real positions: those of x where no context is given.

        Raises:
            TypeError: ``x`` or the context is no tensor.
            ValueError: The rank, the channels or the type of ``x`` does not fit, or the number of frames is
                no multiple of ``extent``; or the context or the mask does not fit.
        """
        call = self._read(x, context, key_mask)
        theta, phi, g, W_z = self._layers(x)
        plain = not isinstance(W_z, nn.Module)
        weight = W_z[0] if plain else first_parameter(W_z)
        if self.instantiation == "concatenation":
            y = self._concatenate(call, theta, phi, g, weight)
        else:
            theta, phi, g = operands_of(call, theta, phi, g)
            # Under autocast g is narrower than x, which is theta and phi of the Gaussian.
            is_symmetric, theta = phi is theta, theta.to(g.dtype)
            phi = theta if is_symmetric else phi.to(g.dtype)
            if self.instantiation == "dot_product":
                theta, phi, g = widen(theta, weight), widen(phi, weight), widen(g, weight)
            y = non_local(
                theta,
                phi,
                g,
                instantiation=self.instantiation,
                scale=self.scale,
                key_mask=call.key_mask,
                num_heads=self.num_heads,
                process_group=call.ranks,
            )
        y = call.places.ungroup(y, x.shape[0])
        if not plain:
            z = call_unnarrowed(W_z, as_map(y, x))
            return x + (z if self.norm is None else normalise(self.norm, z, call.real)).to(x.dtype)
        if self.norm is None:
            return add_projection(y, W_z, x)
        # Folding saves two passes over the map. Fresh memory for such temporaries took a third of the time of
        # the concatenation form at (1, 512, 16, 28, 28).
        # A graph traced by torch.fx keeps the norm as it is: it may be switched to train mode later.
        is_plain_norm = is_constant(self.norm) and not does_more(self.norm)
        if is_plain_norm and not is_traced(x) and folding_pays(y):
            return add_projection(y, fold_norm(self.W_z, self.norm), x)
        z = normalise(self.norm, project_back(y, W_z, x), call.real)
        return x + z.to(x.dtype)

    def affinity(self, x: Tensor, context: Tensor | None = None, *, key_mask: Tensor | None = None) -> Tensor:
        """Return f(x_i, x_j) / C(x) for a map x, shape (B, N, M), or (B, num_heads, N, M) of several heads.

        Positions are in the order of the map's sides, the last one fastest; the keys' sides are those of
        :meth:`key_sides`. With an ``extent`` other than "spacetime" the groups of a clip follow one another
        in the first dimension: (B * groups, N, M).

        Args:
            x: As the other two, what :meth:`forward` takes.
            context: The map of the keys.
            key_mask: Which of its positions are real.

        Memory:
            O(N M).

        Example:
            >>> NonLocal1d(8).affinity(torch.randn(2, 8, 10)).shape
            torch.Size([2, 10, 5])
        """
        theta, phi, _, mask = self.operands(x, context, key_mask=key_mask)
        return functional.affinity(
            theta,
            phi,
            instantiation=self.instantiation,
            w_f=self.w_f,
            scale=self.scale,
            key_mask=mask,
            num_heads=self.num_heads,
        )

    def embed(
        self, x: Tensor, context: Tensor | None = None, *, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta, phi and g of a map x as eq. (1) takes them: pooled, and grouped.

        Args:
            x: As the other two, what :meth:`forward` takes.
            context: The map of the keys.
            key_mask: Which of its positions are real: pooling passes over the others.

        Returns:
            theta (B * groups, N, D), phi (B * groups, M, D) and g (B * groups, M, E); see :meth:`affinity`
            for the order of positions. Those of the Gaussian form are x itself, D = in_channels.

        Example:
            >>> [tuple(part.shape) for part in NonLocal1d(8).embed(torch.randn(2, 8, 10))]
            [(2, 10, 4), (2, 5, 4), (2, 5, 4)]
        """
        return self.operands(x, context, key_mask=key_mask)[:3]

    def operands(
        self, x: Tensor, context: Tensor | None = None, *, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return what :meth:`embed` does, and which keys take part, (B * groups, M); None is all."""
        call = self._read(x, context, key_mask)
        return *operands_of(call, *self._layers(x)[:3]), call.key_mask

    @property
    def scale(self) -> float | None:
        """Factor on the logits: 1 / sqrt(width of a head) with ``use_scale``, else None, which is 1."""
        return (self.inter_channels / self.num_heads) ** -0.5 if self.use_scale else None

    def key_sides(self, sides: Sides) -> Sides:
        """Return the sides of the map of keys for an input, or a context, with these sides."""
        if self.sub_sample is None:
            return sides
        return Geometry(sides, self.extent, self.pool_size).pooled().sides

    def group_sides(self, sides: Sides) -> Sides:
        """Return the sides of one group, the positions that see each other, of a map with these sides."""
        return Geometry(sides, self.extent).group_sides

    def _read(self, x: Tensor, context: Tensor | None, key_mask: Tensor | None) -> Call:
        """Return the maps that a call is about, and where their positions lie, all checked."""
        places = geometry_of(x, self.in_channels, self._num_sides, self.extent, self.pool_size)
        return read_call(
            places,
            x,
            context,
            key_mask,
            context_channels=self.context_channels,
            sub_sample=self.sub_sample,
            pre_norm=self.pre_norm,
            context_norm=self.context_norm,
        )

    def _layers(self, x: Tensor) -> Sequence[Any]:
        """Return theta, phi, g and W_z: as weights and biases where these say all that calling would do.

        That is faster. Else they are the layers: adapters, hooks, pruning, parametrizations, and
        whoever shards or moves weights only when a layer is called.
        """
        layers = (self.theta, self.phi, self.g, self.W_z)
        if has_global_hooks():
            return layers
        device = None if is_traced(x) else x.device
        weights = [None if layer is None else plain_weights(layer, self._conv, device) for layer in layers]
        return weights if weights.count(None) == layers.count(None) else layers

    def _concatenate(self, call: Call, theta: Any, phi: Any, g: Any, weight: Tensor | None) -> Tensor:
        """Return y from two scalars a position; plain layers build no theta, and phi only to pool it.

        Args:
            call: The maps.
            theta: As the other two, what :meth:`_layers` gives.
            phi: Of the keys.
            g: Of the values.
            weight: Of W_z.
        """
        assert self.w_f is not None
        plain = not isinstance(theta, nn.Module)
        heads, w_theta, w_phi = (
            self.num_heads,
            self.w_f[: self.inter_channels],
            self.w_f[self.inter_channels :],
        )
        folds_phi = plain and self.sub_sample != "after"
        if plain:
            theta = fold(theta, w_theta, heads)
        a, b, g = operands_of(call, theta, fold(phi, w_phi, heads) if folds_phi else phi, g)
        a = split_heads(a, heads).squeeze(2) if plain else dot_heads(a, w_theta.to(a.dtype), heads)
        b = split_heads(b, heads).squeeze(2) if folds_phi else dot_heads(b, w_phi.to(b.dtype), heads)
        a, b, g = widen(a, weight), widen(b, weight), widen(split_heads(g, heads), weight)
        mask = repeat_for_heads(call.key_mask, heads)
        y = rectified_non_local(a, b, g, key_mask_BM=mask, process_group=call.ranks)
        return join_heads(y, heads)

    def _replicate_for_data_parallel(self) -> Any:
        """Refuse what replicas would not see; ``nn.DataParallel`` calls this in its caller's thread."""
        check_replicas()
        return super()._replicate_for_data_parallel()

    def __prepare_scriptable__(self) -> NoReturn:
        """Say what to do instead: what TorchScript's compiler would say of the block helps nobody."""
        raise TypeError(
            "a non-local block cannot be compiled by torch.jit.script: use torch.jit.trace(model, example), "
            "torch.export, or nonlocalnn export"
        )

    def extra_repr(self) -> str:
        """Name the settings that the layers do not show; those added later only where they are not usual."""
        unusual = {
            name: vars(self)[name] for name, usual in _ADDED_SETTINGS.items() if vars(self)[name] != usual
        }
        return (
            f"instantiation={self.instantiation!r}, sub_sample={self.sub_sample!r}, "
            f"use_scale={self.use_scale}, extent={self.extent!r}"
            + "".join(f", {name}={value!r}" for name, value in unusual.items())
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
    """Return all non-local blocks of a network by their names, inserted or not, in the network's order.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module(model)
    return {name: module for name, module in model.named_modules() if isinstance(module, NonLocalNd)}
