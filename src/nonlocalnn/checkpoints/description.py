"""What a checkpoint says beside its weights: how the network is made again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.models import (
    DetectionNetwork,
    DigitsNetwork,
    ResidualNetwork,
    SegmentationNetwork,
    UNet1d,
    UNet3d,
)
from nonlocalnn.models.libraries import build_named, candidates, last_layer, width_of
from nonlocalnn.surgery.insertion import insert_again_, inserted_settings, remove_nonlocal_
from nonlocalnn.surgery.insertion_sites import CHILD

_OURS = (ResidualNetwork, DigitsNetwork, SegmentationNetwork, DetectionNetwork, UNet1d, UNet3d)
# Attributes of modules that change nothing in what a trained network computes.
_OF_TRAINING = ("training", "inplace", "momentum", "p", "drop_rate", "drop_prob", "grad_checkpointing")


@dataclass(frozen=True)
class Description:
    """How a network is made again: by whose name, and with which blocks.

    Args:
        name: What its library calls it.
        num_classes: Width of its output.
        overrides: Settings that differ from the name's.
        library: "nonlocalnn", "torchvision" or "timm".
        inserted: What makes each block that was inserted, by the module that it follows; see
            :func:`nonlocalnn.surgery.insertion.inserted_settings`.
        removed: Blocks that the name has, and that were taken out.

    Example:
        >>> network = Description("nl2_c1d_tiny", 10, {}, removed=["layer2.0.nl"]).build()
        >>> list(nonlocal_blocks(network)), describe(network).removed
        (['layer3.0.nl'], ('layer2.0.nl',))
    """

    name: str
    num_classes: int
    overrides: Mapping[str, Any]
    library: str = "nonlocalnn"
    inserted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: Sequence[str] = ()

    def to_config(self) -> dict[str, Any]:
        """Return it as what becomes JSON; what is as usual is left out."""
        config: dict[str, Any] = {
            "name": self.name,
            "num_classes": self.num_classes,
            "overrides": dict(self.overrides),
        }
        if self.library != "nonlocalnn":
            config["library"] = self.library
        if self.inserted:
            config["inserted"] = {site: dict(settings) for site, settings in self.inserted.items()}
        if self.removed:
            config["removed"] = list(self.removed)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Description:
        """Return the description that :meth:`to_config` gave.

        Raises:
            TypeError: A part is missing or unknown, or is none.
        """
        missing = [part for part in ("name", "num_classes", "overrides") if part not in config]
        if missing:
            raise TypeError(f"it lacks {', '.join(missing)}")
        found = cls(**config)
        if not isinstance(found.library, str):
            raise TypeError(f"library must be a name; got {found.library!r:.80}")
        blocks = found.inserted.values() if isinstance(found.inserted, dict) else [found.inserted]
        for each in (found.overrides, *blocks):
            if not isinstance(each, dict):
                raise TypeError(f"overrides and inserted must be objects of settings; got {each!r:.80}")
        if not isinstance(found.removed, list | tuple):
            raise TypeError(f"removed must be a list of names; got {found.removed!r:.80}")
        return found

    def build(self) -> nn.Module:
        """Return the network, with fresh weights; its ``config`` is this description.

        Raises:
            ValueError: A name or a setting is refused.
            TypeError: A setting is unknown.
            ImportError: The library is not installed.
        """
        return self._completed(self._named())

    def sketch(self) -> nn.Module:
        """Return the network without memory, on the meta device; see :meth:`build`."""
        try:
            with torch.device("meta"):
                model = self._named()
        except NotImplementedError:
            # Some networks of torchvision compute their widths by tensors, which have values in memory only.
            with torch.random.fork_rng(devices=[]):
                model = self._named().to("meta")
        with torch.device("meta"):
            return self._completed(model)

    def _named(self) -> nn.Module:
        return build_named(self.library, self.name, self.num_classes, dict(self.overrides))

    def _completed(self, model: nn.Module) -> nn.Module:
        if self.removed:
            remove_nonlocal_(model, self.removed)
        if self.inserted:
            insert_again_(model, self.inserted)
        model.config = self.to_config()  # type: ignore[assignment]  # see create_model
        return model


def describe(model: nn.Module) -> Description | None:
    """Return how a network is made again; None where none of ours, of torchvision and of timm is made so.

    A network is described only where what would be made again, with the blocks that were inserted, has the
    same modules, settings and shapes. A head of another width is the same network with that many classes.
    """
    # Each guess is compared with the model: a wrong one would compute something else without an error.
    for guess in _guesses(model):
        found = _completed(guess, model)
        if found is not None:
            return found
    return None


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """Return what a checkpoint's header says of how a network is made again; None where nobody knows."""
    description = describe(model)
    if description is not None:
        return description.to_config()
    # Of a network of ours that was changed otherwise, or that a wrapper of an unknown kind holds, what it was
    # made as: its weights may fit that still.
    is_ours = any(isinstance(each, _OURS) for each in model.modules())
    known: Any = getattr(model, "config", None) if is_ours else None
    return known if isinstance(known, dict) else None


def _guesses(model: nn.Module) -> Iterator[Description]:
    head = last_layer(model)
    if head is None:
        return
    if type(model) in _OURS:
        config: Any = getattr(model, "config", None)
        if isinstance(config, dict):
            # A detector's last layer is a head's, which counts the background or knows points alone.
            width = model.num_classes if isinstance(model, DetectionNetwork) else width_of(head)
            yield Description(config["name"], width, config["overrides"])
        return
    blocks = nonlocal_blocks(model).values()
    num_inserted = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    for library, name, settings in candidates(model, num_inserted):
        yield Description(name, width_of(head), settings, library)


def _completed(guess: Description, model: nn.Module) -> Description | None:
    """Return the description with the blocks that were inserted and removed; None of another network."""
    try:
        sketch = guess.sketch()
        plain, own = inserted_settings(sketch), inserted_settings(model)
        inserted = {site: settings for site, settings in own.items() if plain.get(site) != settings}
        removed = tuple(f"{site}.{CHILD}" for site in plain if plain[site] != own.get(site))
        found = replace(guess, inserted=inserted, removed=removed)
        sketch = found.sketch() if inserted or removed else sketch
    except (ValueError, TypeError, RuntimeError, AttributeError):
        return None  # whatever a library says to settings that are not the model's
    return found if _is_alike(sketch, model) else None


def _is_alike(sketch: nn.Module, model: nn.Module) -> bool:
    ours, theirs = dict(sketch.named_modules()), dict(model.named_modules())
    if list(ours) != list(theirs) or _shapes(sketch) != _shapes(model):
        return False
    return all(
        _is_of_kind(theirs[name], module) and _settings(module) == _settings(theirs[name], of=module)
        for name, module in ours.items()
    )


def _is_of_kind(module: nn.Module, made: nn.Module) -> bool:
    # A norm whose batch lies on several ranks computes what others do, once it is trained.
    is_synced = type(module) is nn.SyncBatchNorm and isinstance(made, nn.modules.batchnorm._BatchNorm)
    return is_synced or type(module) is type(made)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


def _settings(module: nn.Module, of: nn.Module | None = None) -> dict[str, Any]:
    """Return the plain attributes of a module that decide what it computes, those that ``of`` has."""
    names = vars(module if of is None else of)
    return {
        name: vars(module).get(name)
        for name, value in names.items()
        if not name.startswith("_") and name not in _OF_TRAINING and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
