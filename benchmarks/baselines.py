"""Other ways to compute one of our blocks, with its own weights: what its speed and memory are compared with.

Each takes a block and shares its parameters by reference, so that outputs and gradients can be compared.

Shapes: B batch, N queries, M keys, D embedding channels, E value channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, missing_extra
from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS, non_local
from nonlocalnn.functional.layers import Convolution

Pairs = Literal["broadcast", "repeat"]
# Queries whose affinity the reference holds at a time are as many as fill this many numbers.
_CHUNK_NUMBERS = 2**24


def convolve(x: Tensor, layer: Convolution) -> Tensor:
    """Return a 1x1 convolution of a map by PyTorch's convolution of its rank."""
    function = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
    return function(x, layer.weight, layer.bias)


def pool(x: Tensor) -> Tensor:
    """Max-pool a map by 2, (2, 2) or (1, 2, 2), where a side of 1 stays."""
    window = [1 if side == 1 else 2 for side in x.shape[2:]]
    if x.dim() == 3:
        return F.max_pool1d(x, window)
    if x.dim() == 4:
        return F.max_pool2d(x, window)
    return F.max_pool3d(x, [1, *window[1:]])


class PlainBlock(nn.Module):
    """A block by plain convolutions and poolings; subclasses say how y is computed from theta, phi and g.

    Shape:
        - Input and output: (B, in_channels, sides), as of the block.

    Args:
        block: One of ours, with the extent "spacetime"; its layers are used, not copied.

    Raises:
        ValueError: The block has another extent.
    """

    def __init__(self, block: NonLocalNd) -> None:
        super().__init__()
        if block.extent != "spacetime":
            raise ValueError(f"baselines compute extent='spacetime' only; got {block.extent!r}")
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return z, as the block does."""
        block = self.block
        keys = pool(x) if block.sub_sample == "before" else x
        theta = x if block.theta is None else convolve(x, block.theta)
        phi = keys if block.phi is None else convolve(keys, block.phi)
        g = convolve(keys, block.g)
        if block.sub_sample == "after":
            phi, g = pool(phi), pool(g)
        y_BNE = self.average(theta.flatten(2).transpose(1, 2), phi.flatten(2), g.flatten(2).transpose(1, 2))
        y = y_BNE.transpose(1, 2).contiguous().unflatten(2, x.shape[2:])
        z = convolve(y, block.W_z)
        if block.norm is not None:
            z = block.norm(z)
        return x + z

    def average(self, theta_BND: Tensor, phi_BDM: Tensor, g_BME: Tensor) -> Tensor:
        """Return y, shape (B, N, E)."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """The factor on the logits."""
        return self.block.inter_channels**-0.5 if self.block.use_scale else 1.0


class MaterialisedBlock(PlainBlock):
    """A block as it is usually written, with the N x M affinity in memory.

    It is written in its own favour: the ReLU works in place, and y, which is smaller, is divided by M instead
    of the affinity.

    Args:
        block: One of ours.
        pairs: How the concatenation form makes its pairs. "broadcast" adds a scalar of each query and one of
            each key; "repeat" holds [theta_i, phi_j] for all pairs, (B, 2D, N, M), as the equation reads.
    """

    def __init__(self, block: NonLocalNd, pairs: Pairs = "broadcast") -> None:
        super().__init__(block)
        check_choice("pairs", pairs, ("broadcast", "repeat"))
        self.pairs = pairs

    def average(self, theta_BND: Tensor, phi_BDM: Tensor, g_BME: Tensor) -> Tensor:
        """Return y, shape (B, N, E)."""
        if self.block.instantiation == "concatenation":
            return self._rectified(theta_BND, phi_BDM) @ g_BME / g_BME.shape[1]
        f_BNM = theta_BND @ phi_BDM
        if self.block.instantiation == "dot_product":
            return f_BNM @ g_BME / g_BME.shape[1]
        if self.block.use_scale:
            f_BNM = f_BNM * self.scale
        return f_BNM.softmax(2) @ g_BME

    def _rectified(self, theta_BND: Tensor, phi_BDM: Tensor) -> Tensor:
        w_f = self.block.w_f
        assert w_f is not None
        num_queries, num_keys = theta_BND.shape[1], phi_BDM.shape[2]
        if self.pairs == "repeat":
            theta = theta_BND.transpose(1, 2).unsqueeze(3).expand(-1, -1, -1, num_keys)
            phi = phi_BDM.unsqueeze(2).expand(-1, -1, num_queries, -1)
            return F.conv2d(torch.cat([theta, phi], 1), w_f.view(1, -1, 1, 1)).squeeze(1).relu_()
        w_theta, w_phi = w_f.chunk(2)
        a_BN, b_BM = theta_BND @ w_theta, phi_BDM.transpose(1, 2) @ w_phi
        return (a_BN.unsqueeze(2) + b_BM.unsqueeze(1)).relu_()


class PlainAttentionBlock(PlainBlock):
    """The two Gaussian forms by ``scaled_dot_product_attention``, channels innermost as it wants them."""

    def average(self, theta_BND: Tensor, phi_BDM: Tensor, g_BME: Tensor) -> Tensor:
        """Return y, shape (B, N, E)."""
        theta, phi, g = (part.contiguous() for part in (theta_BND, phi_BDM.transpose(1, 2), g_BME))
        return F.scaled_dot_product_attention(theta, phi, g, scale=self.scale)


class FlexBlock(PlainBlock):
    """The two Gaussian forms by ``flex_attention``, which is fast under ``torch.compile`` alone."""

    def average(self, theta_BND: Tensor, phi_BDM: Tensor, g_BME: Tensor) -> Tensor:
        """Return y, shape (B, N, E)."""
        from torch.nn.attention.flex_attention import flex_attention

        theta, phi, g = (part.contiguous() for part in (theta_BND, phi_BDM.transpose(1, 2), g_BME))
        y: Tensor = flex_attention(theta[:, None], phi[:, None], g[:, None], scale=self.scale)
        return y.squeeze(1)


class ReferenceBlock(PlainBlock):
    """The specification: eq. (1) as written, a part of the queries at a time."""

    def average(self, theta_BND: Tensor, phi_BDM: Tensor, g_BME: Tensor) -> Tensor:
        """Return y, shape (B, N, E)."""
        block = self.block
        phi_BMD = phi_BDM.transpose(1, 2)
        rows = max(1, _CHUNK_NUMBERS // max(1, g_BME.shape[0] * g_BME.shape[1]))
        parts = [
            non_local(
                part_BRD,
                phi_BMD,
                g_BME,
                instantiation=block.instantiation,
                w_f=block.w_f,
                scale=self.scale if block.instantiation in SOFTMAX_INSTANTIATIONS else None,
                engine="reference",
            )
            for part_BRD in theta_BND.split(rows, 1)
        ]
        return torch.cat(parts, 1)


def timm_block(block: NonLocalNd) -> nn.Module:
    """Return timm's NonLocalAttn with the block's parameters.

    timm has the embedded Gaussian on images without sub-sampling, always with a batch normalisation. Its
    scale is in_channels**-0.5 where ours is inter_channels**-0.5, so it is compared without one.

    Raises:
        ValueError: timm has no such block.
        ImportError: timm is missing.
    """
    expressible = (
        block._num_sides == 2
        and block.instantiation == "embedded_gaussian"
        and block.sub_sample is None
        and not block.use_scale
        and block.norm is not None
    )
    if not expressible:
        raise ValueError("timm has the unscaled embedded Gaussian on images, without sub-sampling, only")
    try:
        from timm.layers.non_local_attn import NonLocalAttn
    except ImportError:
        raise missing_extra("timm", "bench", "the comparison with timm") from None
    theirs = NonLocalAttn(block.in_channels, use_scale=False, rd_channels=block.inter_channels)
    for name, layer in (("t", block.theta), ("p", block.phi), ("g", block.g), ("z", block.W_z)):
        setattr(theirs, name, layer)
    theirs.norm = block.norm
    return theirs


def mmcv_block(block: NonLocalNd) -> nn.Module:
    """Return mmcv's block of the same form with the block's parameters.

    Raises:
        ValueError: mmcv has no such block.
        ImportError: mmcv is missing.
    """
    reduction = block.in_channels // block.inter_channels
    if block.use_scale or block.sub_sample == "before" or block.extent != "spacetime":
        raise ValueError("mmcv is compared unscaled, sub-sampled after phi and g, over all positions only")
    if max(1, block.in_channels // reduction) != block.inter_channels:
        raise ValueError(f"mmcv cannot make {block.inter_channels} of {block.in_channels} channels")
    try:
        from mmcv.cnn import NonLocal1d, NonLocal2d, NonLocal3d
    except ImportError:
        raise missing_extra("mmcv-lite", "bench", "the comparison with mmcv") from None
    theirs = (NonLocal1d, NonLocal2d, NonLocal3d)[block._num_sides - 1](
        block.in_channels,
        sub_sample=block.sub_sample == "after",
        reduction=reduction,
        use_scale=False,
        norm_cfg=None if block.norm is None else {"type": f"BN{block._num_sides}d"},
        mode=block.instantiation,
    )
    for name, layer in (("theta", block.theta), ("phi", block.phi), ("g", block.g)):
        if layer is not None:
            module = getattr(theirs, name)
            # With sub-sampling the convolution is the first of two.
            (module[0] if isinstance(module, nn.Sequential) else module).conv = layer
    theirs.conv_out.conv = block.W_z
    if block.norm is not None:
        setattr(theirs.conv_out, theirs.conv_out.norm_name, block.norm)
    if block.w_f is not None:
        return _MmcvConcatenation(theirs, block.w_f)
    return theirs


class _MmcvConcatenation(nn.Module):
    """mmcv's concatenation form with our w_f, which is a vector where theirs is a convolution's weight."""

    def __init__(self, theirs: nn.Module, w_f: nn.Parameter) -> None:
        super().__init__()
        self.theirs, self.w_f = theirs, w_f
        self.convolution = theirs.get_submodule("concat_project.conv")
        del self.convolution.weight

    def forward(self, x: Tensor) -> Tensor:
        self.convolution.weight = self.w_f.view(1, -1, 1, 1)
        return self.theirs(x)
