"""Cheap global context in place of the blocks: does a block do more than a summary of the whole map would?

Each control sees all positions, and gives every position the same: none says which of them matter to which.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice
from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks
from nonlocalnn.functional.masks import masks_of
from nonlocalnn.functional.norms import normalise


class MeanContext(nn.Module):
    r"""A block that weighs all positions alike: z_i = x_i + norm(W_z mean_j g(x_j)).

    It takes over the g, W_z and norm of the block, and so starts as the block does and has as many parameters
    as the Gaussian form. Inside :func:`nonlocalnn.real_positions` the mean is of the real positions.

    Shape:
        - Input and output: (B, C, \*sides).

    Example:
        >>> import torch
        >>> from nonlocalnn import NonLocal2d
        >>> MeanContext(NonLocal2d(8, zero_init=False))(torch.rand(2, 8, 5, 4)).shape
        torch.Size([2, 8, 5, 4])
    """

    def __init__(self, block: NonLocalNd) -> None:
        super().__init__()
        self.g, self.W_z, self.norm = block.g, block.W_z, block.norm

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        # g is affine, so that the mean of g(x) is g of the mean.
        real, _ = masks_of(x, None, None, None)
        z = self.W_z(self.g(_mean(x, real))).expand_as(x)
        return x + (z if self.norm is None else normalise(self.norm, z, real))


class SqueezeExcitation(nn.Module):
    r"""Each channel times a share that the map's mean decides: z_i = x_i sigmoid(W_2 ReLU(W_1 mean_j x_j)).

    With as many parameters as the block, to the nearest width between the two layers.

    Shape:
        - Input and output: (B, C, \*sides).

    Source:
        Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018, eq. (2) to (4).
    """

    def __init__(self, block: NonLocalNd) -> None:
        super().__init__()
        channels = block.in_channels
        width = _width(block, each=2 * channels + 1, rest=channels)
        self.squeeze, self.excite = block._conv(channels, width, 1), block._conv(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        return x * self.excite(F.relu(self.squeeze(_mean(x)))).sigmoid()


class GlobalContext(nn.Module):
    r"""The global context block: z_i = x_i + W_2 ReLU(LN(W_1 sum_j a_j x_j)).

    a, one attention map for all queries, is the softmax of W_k x_j over the positions. With as many
    parameters as the block, to the nearest width between the two layers.

    Shape:
        - Input and output: (B, C, \*sides).

    Source:
        Cao, Xu, Lin, Wei, Hu: GCNet, ICCV workshops 2019, section 3.4.
    """

    def __init__(self, block: NonLocalNd) -> None:
        super().__init__()
        channels = block.in_channels
        # Beside the two layers there is W_k, and the layer norm has a factor and a term a channel.
        width = _width(block, each=2 * channels + 3, rest=2 * channels + 1)
        self.W_k = block._conv(channels, 1, 1)
        self.squeeze, self.excite = block._conv(channels, width, 1), block._conv(width, channels, 1)
        # One group: mean and variance over all channels of a map of one position.
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        attention = self.W_k(x).flatten(2).softmax(2)
        context = (x.flatten(2) @ attention.transpose(1, 2)).view(*x.shape[:2], *[1] * (x.dim() - 2))
        return x + self.excite(F.relu(self.norm(self.squeeze(context))))


CONTROLS: dict[str, Callable[[NonLocalNd], nn.Module]] = {
    "mean": MeanContext,
    "squeeze-excitation": SqueezeExcitation,
    "global-context": GlobalContext,
}


def replace_blocks_(model: nn.Module, control: str) -> None:
    """Put a control in the place of every non-local block of a network.

    What the network says of how it is made again goes, as nothing makes a control again.

    Args:
        model: A network with blocks.
        control: One of ``CONTROLS``.

    Raises:
        ValueError: There is no such control; the network has no block; or its blocks start as the identity,
            which only the mean can.

    Example:
        >>> from nonlocalnn import create_model
        >>> network = create_model("nl2_c2d_tiny")
        >>> replace_blocks_(network, "mean")
        >>> type(network.layer2[0].nl).__name__
        'MeanContext'
    """
    check_choice("control", control, tuple(CONTROLS))
    blocks = nonlocal_blocks(model)
    if not blocks:
        raise ValueError("the network has no non-local block to replace: choose one with blocks")
    identities = [name for name, block in blocks.items() if block.zero_init and control != "mean"]
    if identities:
        raise ValueError(
            f"only the mean can start as the identity, and {', '.join(identities)} do: set zero_init=False"
        )
    for name, block in blocks.items():
        owner, _, child = name.rpartition(".")
        setattr(model.get_submodule(owner), child, CONTROLS[control](block))
    if hasattr(model, "config"):
        del model.config


def _mean(x: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the mean over the positions that are real, (B, *sides), as a map of one; None is all."""
    sides = tuple(range(2, x.dim()))
    if real is None:
        return x.mean(sides, keepdim=True)
    real = real.unsqueeze(1)
    return x.masked_fill(~real, 0).sum(sides, keepdim=True) / real.sum(sides, keepdim=True).clamp(min=1)


def _width(block: NonLocalNd, *, each: int, rest: int) -> int:
    """Return the width with which a control of ``each`` parameters a channel and ``rest`` is as large."""
    number = sum(parameter.numel() for parameter in block.parameters())
    return max(1, round((number - rest) / each))
