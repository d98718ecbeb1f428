"""The settings of a block: what each may be, and which have no effect beside which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nonlocalnn._errors import check_choice
from nonlocalnn._names import INSTANTIATIONS
from nonlocalnn.functional.checks import SOFTMAX_INSTANTIATIONS
from nonlocalnn.functional.geometry import Extent

SubSample = Literal["after", "before"] | None

# A matrix of a million by a million fits into no memory.
_MOST_CHANNELS = 2**20


@dataclass(frozen=True)
class Settings:
    """What makes a block, checked; see :class:`nonlocalnn.blocks.NonLocalNd` for what each means.

    Args:
        num_sides: 1, 2 or 3.
        in_channels: As all that follows, as the block was given it.

    Raises:
        ValueError: A setting is unknown or would have no effect.

    Example:
        >>> where = ("after", (2, 3), False, True, "spacetime")
        >>> settings = Settings(2, 8, None, 6, None, 2, "dot_product", *where)
        >>> settings.inner, settings.values
        (4, 6)
    """

    num_sides: int
    in_channels: int
    inter_channels: int | None
    value_channels: int | None
    context_channels: int | None
    num_heads: int
    instantiation: str
    sub_sample: str | None
    pool_size: int | Sequence[int] | None
    use_scale: bool
    zero_init: bool
    extent: Extent

    def __post_init__(self) -> None:
        check_choice("instantiation", self.instantiation, INSTANTIATIONS)
        check_choice("sub_sample", self.sub_sample, ("after", "before", None))
        check_choice("use_scale", self.use_scale, (True, False))
        check_choice("zero_init", self.zero_init, (True, False))
        self._check_widths()
        self._check_extent()
        self._check_pool_size()
        if self.use_scale and self.instantiation not in SOFTMAX_INSTANTIATIONS:
            raise ValueError(
                f"use_scale scales the logits of the softmax and {self.instantiation!r} has none: leave it "
                "False"
            )

    @property
    def inner(self) -> int:
        """Channels of theta and phi."""
        if self.inter_channels is not None:
            return self.inter_channels
        if self.instantiation == "gaussian" and self.value_channels is not None:
            return self.value_channels
        # The nearest multiple of the heads to half of the channels, from below.
        half = max(1, self.in_channels // 2)
        return max(self.num_heads, half - half % self.num_heads)

    @property
    def values(self) -> int:
        """Channels of g."""
        return self.inner if self.value_channels is None else self.value_channels

    @property
    def window(self) -> tuple[int, ...] | None:
        """The window of sub-sampling along each side, or None for the usual one."""
        if self.pool_size is None:
            return None
        return (self.pool_size,) if isinstance(self.pool_size, int) else tuple(self.pool_size)

    def _check_widths(self) -> None:
        for name in ("in_channels", "inter_channels", "value_channels", "context_channels", "num_heads"):
            value = getattr(self, name)
            if value is None and name not in ("in_channels", "num_heads"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_CHANNELS:
                raise ValueError(
                    f"{name} must be a whole number of at least 1; got {repr(value)[:80]} (at most "
                    f"{_MOST_CHANNELS})"
                )
        if self.instantiation == "gaussian":
            if self.context_channels not in (None, self.in_channels):
                raise ValueError(
                    "the Gaussian compares the maps themselves: context_channels must be in_channels = "
                    f"{self.in_channels}; got {self.context_channels}"
                )
            if self.value_channels not in (None, self.inner):
                raise ValueError(
                    "the Gaussian has no theta and phi, and inter_channels is the width of g: leave one of "
                    f"inter_channels = {self.inter_channels} and value_channels = {self.value_channels} out"
                )
        keys = "in_channels" if self.instantiation == "gaussian" else "inter_channels"
        widths = {
            keys: self.in_channels if keys == "in_channels" else self.inner,
            "value_channels": self.values,
        }
        for name, width in widths.items():
            if width % self.num_heads:
                raise ValueError(
                    f"every head takes an equal slice of the channels: {name} must be a multiple of "
                    f"num_heads = {self.num_heads}; got {width}"
                )

    def _check_extent(self) -> None:
        if isinstance(self.extent, int) and not isinstance(self.extent, bool):
            if self.extent < 1:
                raise ValueError(f"extent, as a number of frames, must be at least 1; got {self.extent}")
        else:
            check_choice("extent", self.extent, ("spacetime", "space", "time"))
        if self.num_sides != 3 and self.extent != "spacetime":
            raise ValueError(f"extent is a setting of NonLocal3d: NonLocal{self.num_sides}d has no frames")

    def _check_pool_size(self) -> None:
        if self.pool_size is None:
            return
        given = [self.pool_size] if isinstance(self.pool_size, int) else self.pool_size
        is_sizes = isinstance(given, list | tuple) and len(given) == self.num_sides
        if not is_sizes or not all(isinstance(each, int) and 1 <= each <= _MOST_CHANNELS for each in given):
            raise ValueError(
                f"pool_size must be {self.num_sides} whole numbers of at least 1, one for each side; got "
                f"{repr(self.pool_size)[:80]}"
            )
        if self.sub_sample is None:
            raise ValueError(
                "pool_size is the window of sub-sampling, and sub_sample=None has none: leave it out"
            )
        if all(each == 1 for each in given):
            raise ValueError(f"pool_size={tuple(given)} pools nothing: use sub_sample=None")
        # Pooling over positions that do not see each other would make a key of several groups.
        outside = {"spacetime": [], "time": [1, 2]}.get(str(self.extent), [0])
        if any(given[axis] != 1 for axis in outside):
            raise ValueError(
                f"with extent={self.extent!r} pool_size must be 1 along "
                f"{'H and W' if len(outside) == 2 else 'T'}, whose positions do not all see each other; got "
                f"{tuple(given)}"
            )
