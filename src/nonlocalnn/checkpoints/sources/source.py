"""What is known of a code base whose video networks are imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nonlocalnn.checkpoints.state import State


@dataclass(frozen=True)
class Source:
    """A code base: its keys, and what its networks do that no key tells.

    Args:
        name: Of the code base.
        recognises: Whether a state dict has its keys.
        to_ours: Returns the state dict under our names, and the settings of
            :class:`~nonlocalnn.models.ResidualNetwork` that its keys tell.
        settings: Those settings that all its networks have.
        early_settings: Those that go with clips whose time is halved early; None where it never is.
        groups_frames: Whether the first blocks of networks for long clips see groups of 4 frames.
        clip: The clip setting of its published networks; None where there are several.
        mean: What becomes 0, of pixel values from 0 to 255.
        standard_deviation: What becomes a distance of 1.
        from_ours: Returns a state dict of ours under its names, told whether blocks sub-sample; None where
            nothing is exported to it.
        container: The entry of its files that holds the state dict.
        beside: The entries beside it that its code looks for.
    """

    name: str
    recognises: Callable[[State], bool]
    to_ours: Callable[[State], tuple[State, dict[str, Any]]]
    settings: Mapping[str, Any]
    early_settings: Mapping[str, Any] | None = field(default_factory=dict)
    groups_frames: bool = False
    clip: str | None = None
    mean: float | tuple[float, float, float] = 114.75
    standard_deviation: float | tuple[float, float, float] = 57.375
    from_ours: Callable[[State, bool], State] | None = None
    container: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)
