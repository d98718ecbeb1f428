"""What the residual networks are made of: the bottleneck, and a norm that does not move."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn.functional.layers import NORMS, Convolution, does_more, has_global_hooks, is_traced
from nonlocalnn.functional.modes import is_transformed
from nonlocalnn.models.convolution import ClipConvolution
from nonlocalnn.models.padding import normalised, normalised_layers, without_padding

# torch.fx then records it as one node: whether anything is padded is known only when the graph runs.
torch.fx.wrap("without_padding")

EXPANSION = 4
CONVOLUTIONS: tuple[Callable[..., Convolution], ...] = (nn.Conv1d, nn.Conv2d, ClipConvolution)


class FrozenNorm(nn.Module):
    r"""Batch normalisation whose factor and term are constants: nothing in it is trained or updated.

    .. math:: y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta

    For batches too small for statistics of their own, such as long clips. Its state-dict keys are those of
    the batch normalisation whose state it takes over, less the count of batches.

    Shape:
        - Input: (B, num_features, \*sides).
        - Output: the same.

    Args:
        num_features: Channels.
        eps: Added to the variance.

    Example:
        >>> norm = FrozenNorm(4)
        >>> norm.load_state_dict(nn.BatchNorm2d(4).state_dict())
        <All keys matched successfully>
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map."""
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - factor * self.running_mean
        sides = [1] * (x.dim() - 2)
        return x * factor.view(-1, *sides).to(x.dtype) + shift.view(-1, *sides).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, then a non-local block where there is one.

    In a video network the first convolution spans ``first_frames`` frames and the second ``frames``; with
    ``strides_frames`` the stride goes along them too, as in a volume. With several ``groups`` it is
    ResNeXt's.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        num_sides: int,
        stride: int,
        first_frames: int,
        frames: int,
        norm: Callable[[int], nn.Module],
        groups: int = 1,
        group_width: int = 64,
        strides_frames: bool = False,
    ) -> None:
        super().__init__()
        conv = CONVOLUTIONS[num_sides - 1]
        out_channels = width * EXPANSION
        # torchvision's rule, so that the published weights of its ResNeXts fit: 64 is one plain group.
        inner = width * group_width // 64 * groups

        def kernel(side: int, num_frames: int) -> tuple[int, ...]:
            return along(num_sides, num_frames, side)

        first, second = kernel(1, first_frames), kernel(3, frames)
        strides = along(num_sides, stride if strides_frames else 1, stride)
        self.conv1 = conv(in_channels, inner, first, padding=halves(first), bias=False)
        self.bn1 = norm(inner)
        self.conv2 = conv(
            inner, inner, second, stride=strides, padding=halves(second), groups=groups, bias=False
        )
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, out_channels, kernel(1, 1), bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = conv(in_channels, out_channels, kernel(1, 1), stride=strides, bias=False)
            self.downsample = nn.Sequential(shortcut, norm(out_channels))
        self.nl: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after the block, if there is one."""
        shortcut = x if self.downsample is None else normalised_layers(self.downsample, x)
        # Of a video network the first convolution may look at frames beside its own.
        x = rectified(normalised(self.bn1, self.conv1(without_padding(x))), self.conv1, self.bn1)
        x = rectified(normalised(self.bn2, self.conv2(without_padding(x))), self.conv2, self.bn2)
        x = rectified_sum(normalised(self.bn3, self.conv3(x)), shortcut, self.conv3, self.bn3)
        return x if self.nl is None else self.nl(x)


def rectified(x: Tensor, *layers: nn.Module) -> Tensor:
    """Return ReLU(x), where x is what these layers made, one after the other.

    It takes the memory of x where nobody else holds it: a new map costs more than its numbers.

    Example:
        >>> conv = nn.Conv2d(2, 3, 1)
        >>> bool((rectified(conv(torch.randn(1, 2, 4, 4)), conv, nn.Identity()) >= 0).all())
        True
    """
    return F.relu(x, inplace=_is_own(layers))


def rectified_sum(x: Tensor, shortcut: Tensor, *layers: nn.Module) -> Tensor:
    """Return ReLU(x + shortcut), where x is what these layers made, one after the other."""
    # Autocast may have made one of them narrower; under vmap one may be of several networks, the other not.
    fits = not is_traced(x) and x.dtype == shortcut.dtype and not is_transformed()
    return F.relu(x.add_(shortcut) if fits and _is_own(layers) else x + shortcut, inplace=True)


def _is_own(layers: tuple[nn.Module, ...]) -> bool:
    """Return whether nobody else can hold what these layers made, nor need it for a backward pass."""
    made = [layer for layer in layers if type(layer) is not nn.Identity]
    if not made or has_global_hooks() or any(map(does_more, layers)):
        return False
    # A class of someone else's may return what it saved, or was given.
    is_known = isinstance(made[-1], (nn.modules.conv._ConvNd, *NORMS, FrozenNorm))
    return is_known and type(made[-1]).__module__.startswith(("torch.", "nonlocalnn."))


def along(num_sides: int, over_time: int, over_space: int) -> tuple[int, ...]:
    """Return a kernel or stride: one number for each side, the first of three being time."""
    return (over_time, over_space, over_space) if num_sides == 3 else (over_space,) * num_sides


def halves(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return the padding that keeps the sides of a map."""
    return tuple(side // 2 for side in kernel)
