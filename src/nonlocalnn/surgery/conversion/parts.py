"""What a foreign module is made of, by our names, and whether our block has a place for it all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nonlocalnn.blocks import BLOCKS, NonLocalNd, SubSample
from nonlocalnn.functional import Instantiation
from nonlocalnn.functional.layers import Convolution
from nonlocalnn.surgery.conversion.layers import NotConvertibleError

FoundNorm = _BatchNorm | nn.GroupNorm


@dataclass(frozen=True)
class Parts:
    """The layers of a foreign module, and one reading of what it does with them.

    Args:
        source: The library.
        instantiation: The pairwise function.
        theta: None in the Gaussian, and so is ``phi``.
        phi: As wide as theta.
        g: Of any width.
        W_z: Back to the width of x.
        norm: After W_z.
        w_f: The convolution of the concatenation form, to one channel.
        sub_sample: As in our block.
        pool_size: The window of sub-sampling; None is the usual one.
        scale: What multiplies the logits of a softmax.
        num_heads: Heads, each with its slice of the channels.
        pre_norm: Before theta, phi and g.
    """

    source: str
    instantiation: Instantiation
    theta: Convolution | None
    phi: Convolution | None
    g: Convolution
    W_z: Convolution
    norm: FoundNorm | None = None
    w_f: Convolution | None = None
    sub_sample: SubSample = None
    pool_size: tuple[int, ...] | None = None
    scale: float = 1.0
    num_heads: int = 1
    pre_norm: FoundNorm | None = None

    @property
    def block(self) -> type[NonLocalNd]:
        """Our class for maps of this rank."""
        return next(block for block in BLOCKS if isinstance(self.g, block._conv))

    @property
    def inner(self) -> int:
        """Channels of theta and phi; those of g in the Gaussian, which has neither."""
        return self.g.out_channels if self.theta is None else self.theta.out_channels

    def check(self) -> None:
        """Check that the layers fit one another.

        Raises:
            NotConvertibleError: Two widths or ranks differ that are one in our block.
        """
        outer, values, kind = self.g.in_channels, self.g.out_channels, self.block._conv
        for name, layer, widths in (
            ("theta", self.theta, (outer, self.inner)),
            ("phi", self.phi, (outer, self.inner)),
            ("W_z", self.W_z, (values, outer)),
        ):
            if layer is None:
                continue
            if not isinstance(layer, kind) or (layer.in_channels, layer.out_channels) != widths:
                raise NotConvertibleError(
                    f"{name} does not fit the others: it is {layer}, g is {self.g} and theta is {self.theta}"
                )
        if self.inner % self.num_heads or values % self.num_heads:
            raise NotConvertibleError(
                f"widths {self.inner} and {values} are no multiples of its {self.num_heads} heads"
            )
        if self.w_f is not None and self.w_f.in_channels != 2 * self.inner:
            raise NotConvertibleError(f"concat_project must take {2 * self.inner} channels; it is {self.w_f}")
        for norm in (self.norm, self.pre_norm):
            if norm is not None and num_features(norm) != outer:
                raise NotConvertibleError(f"its norm must be of {outer} channels; it is {norm}")


def num_features(norm: FoundNorm) -> int:
    """Return the number of channels that a norm takes."""
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features
