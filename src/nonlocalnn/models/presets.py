"""Names of whole networks and what they build."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nonlocalnn._errors import check_choice, near_miss
from nonlocalnn.models.digits import DigitsNetwork

Config = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """A network by name: what builds it, and its settings.

    Args:
        build: The network's class; takes ``num_classes`` and the settings by keyword.
        num_classes: What ``num_classes`` is when nobody says.
        settings: Keyword arguments of ``build``, which overrides replace.
    """

    build: Callable[..., nn.Module]
    num_classes: int
    settings: dict[str, Any] = field(default_factory=dict)


_PRESETS: dict[str, Preset] = {
    "nl_digits": Preset(DigitsNetwork, num_classes=10),
}


def list_models() -> list[str]:
    """Return the names that :func:`create_model` knows, sorted.

    Example:
        >>> "nl_digits" in list_models()
        True
    """
    return sorted(_PRESETS)


def model_settings(name: str) -> list[str]:
    """Return the names of the settings that :func:`create_model` takes for a network.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> model_settings("nl_digits")[:2]
        ['in_channels', 'image_size']
    """
    check_choice("model", name, list_models())
    return [each for each in inspect.signature(_PRESETS[name].build).parameters if each != "num_classes"]


def create_model(name: str, *, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """Build a network by its name, with fresh weights.

    The model remembers what it was built from in ``model.config``, so that
    :func:`nonlocalnn.save_checkpoint` can write it beside the weights.

    Args:
        name: One of :func:`list_models`.
        num_classes: Width of the output; None is the network's own default.
        overrides: Settings of the network's class that differ from the preset's.

    Raises:
        ValueError: The name is unknown, or a setting's value is refused by the network.
        TypeError: The network has no setting of that name.

    Example:
        >>> model = create_model("nl_digits", instantiation="dot_product")
        >>> model.nl_1.instantiation
        'dot_product'
    """
    known = model_settings(name)
    preset = _PRESETS[name]
    for setting in overrides:
        if setting not in known:
            raise TypeError(
                f"{name} has no setting {setting!r}{near_miss(setting, known)}; it has {', '.join(known)}"
            )
    num_classes = preset.num_classes if num_classes is None else num_classes
    model = preset.build(num_classes=num_classes, **{**preset.settings, **overrides})
    config: Config = {"name": name, "num_classes": num_classes, "overrides": dict(overrides)}
    model.config = config  # type: ignore[assignment]  # nn.Module's stubs know tensors and modules only
    return model
