"""Which networks an ablation compares: the paper's tables in miniature, as data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nonlocalnn.functional import INSTANTIATIONS
from nonlocalnn.models.placement import STAGES


@dataclass(frozen=True)
class Start:
    """A run of another recipe, of the same seed, whose weights a variant begins with.

    Args:
        recipe: Name of a recipe of the package.
        model: Name of the network that it trains.
    """

    recipe: str
    model: str


@dataclass(frozen=True)
class Variant:
    """A row of a table: a network and how its blocks start.

    Args:
        name: What the row is called.
        model: Name of the network; None is the recipe's own.
        overrides: Settings of the network that differ from its defaults, as JSON values.
        gamma: Weight of the blocks' last norm at the start; None leaves it to the network.
        alike: Whether phi starts with the weights of theta; None leaves it to the network.
        start: Whose weights the network begins with; None is what the recipe says.
        control: What stands in the place of each block, one of ``benchmarks.ablation.controls.CONTROLS``;
            None is the block.
        inserted: Form of the blocks that are inserted where the recipe says, or "none" for no block; None
            leaves that to the recipe.
    """

    name: str
    model: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    gamma: float | None = None
    alike: bool | None = None
    start: Start | None = None
    control: str | None = None
    inserted: str | None = None


Table = tuple[Variant, ...]

_PLAIN, _NL = "c2d_tiny", "nl2_c2d_tiny"

_NO_BLOCK = Variant("no block", _PLAIN)
# Where a recipe has another width than this one of the presets, those below are in proportion to it.
TINY_WIDTH = 8
# Controls: no blocks, but at least as many parameters and FLOPs as the network with two blocks has; the last
# has as many parameters as the one with four. The deeper ones come within two percent; a width is coarser.
_WIDER = Variant("no block, wider", _PLAIN, {"width": 10})
_DEEPER = Variant("no block, deeper", _PLAIN, {"depth": [1, 3, 3, 1]})
_DEEPER_AS_FOUR = Variant("no block, deeper still", _PLAIN, {"depth": [1, 1, 3, 3]})


def _at(name: str, *stages: str) -> Variant:
    return Variant(name, _PLAIN, {"blocks": {stage: [0] for stage in stages}})


def _two_blocks(
    name: str, gamma: float | None = None, alike: bool | None = None, **overrides: Any
) -> Variant:
    return Variant(name, _NL, overrides, gamma, alike)


def _controls(model: str) -> Table:
    return (
        Variant("mean over positions", model, control="mean"),
        Variant("squeeze-and-excitation", model, control="squeeze-excitation"),
        Variant("global context block", model, control="global-context"),
    )


_FORMS = (
    _two_blocks("gaussian", instantiation="gaussian"),
    _two_blocks("embedded_gaussian"),
    _two_blocks("dot_product", instantiation="dot_product"),
    _two_blocks("concatenation", instantiation="concatenation"),
)
# What a preset does anyway is not spelt out again: variants that are the same network are equal but for their
# names, and are trained once.
_CUE_TABLES: dict[str, Table] = {
    "instantiations": (
        _NO_BLOCK,
        _WIDER,
        _DEEPER,
        *_FORMS,
    ),
    "controls": (
        _NO_BLOCK,
        _WIDER,
        _DEEPER,
        *_controls(_NL),
        _two_blocks("dot_product", instantiation="dot_product"),
        _two_blocks("embedded_gaussian"),
    ),
    "stage": (_NO_BLOCK, _WIDER, *(_at(stage, stage) for stage in STAGES)),
    "depth": (
        _NO_BLOCK,
        _at("1 block", "layer3"),
        _two_blocks("2 blocks"),
        _at("4 blocks", *STAGES),
        _DEEPER,
        _DEEPER_AS_FOUR,
    ),
    "extent": (
        _NO_BLOCK,
        _WIDER,
        _DEEPER,
        _two_blocks("space", extent="space"),
        _two_blocks("time", extent="time"),
        _two_blocks("spacetime"),
    ),
    "vs-3d-conv": (
        Variant("C2D", _PLAIN),
        Variant("I3D 3x1x1", _PLAIN, {"inflation": "3x1x1"}),
        Variant("I3D 3x3x3", _PLAIN, {"inflation": "3x3x3"}),
        # As many parameters and FLOPs as the same network with its blocks; the last as C2D with its.
        Variant("C2D, deeper", _PLAIN, _DEEPER.overrides),
        Variant("I3D 3x1x1, deeper", _PLAIN, {"inflation": "3x1x1", "depth": [1, 2, 3, 1]}),
        Variant("I3D 3x3x3, deeper", _PLAIN, {"inflation": "3x3x3", "depth": [1, 1, 2, 1]}),
        _two_blocks("C2D, 2 blocks"),
        _two_blocks("I3D 3x1x1, 2 blocks", inflation="3x1x1"),
    ),
    "init": (
        _NO_BLOCK,
        _two_blocks("gamma 0", zero_init=True),
        _two_blocks("gamma 0.1", gamma=0.1),
        _two_blocks("gamma 1"),
    ),
    "embeddings": (
        _two_blocks("embedded_gaussian, phi drawn apart", alike=False),
        _two_blocks("embedded_gaussian, phi as theta"),
        _two_blocks("dot_product, phi drawn apart", instantiation="dot_product"),
        _two_blocks("dot_product, phi as theta", alike=True, instantiation="dot_product"),
    ),
    # Parts of the tables above, for many seeds.
    "forms": _FORMS,
    "concatenation": _FORMS[-1:],
    "on-3d-conv": (
        _two_blocks("C2D, 2 blocks"),
        _two_blocks("I3D 3x1x1, 2 blocks", inflation="3x1x1"),
    ),
}
# Segmentation: attention is compared with convolutions that reach as far, too, and have more parameters.
_SCENE_TABLES: dict[str, Table] = {
    "context": (
        Variant("no block", "fcn_tiny"),
        Variant("no block, dilation 6", "fcn_d6_tiny"),
        Variant("embedded_gaussian", "nl_fcn_tiny"),
    ),
    "instantiations": tuple(
        Variant(name, "nl_fcn_tiny", {} if name == "embedded_gaussian" else {"instantiation": name})
        for name in INSTANTIATIONS
    ),
    "controls": (
        Variant("no block", "fcn_tiny"),
        Variant("no block, dilation 6", "fcn_d6_tiny"),
        *_controls("nl_fcn_tiny"),
        Variant("dot_product", "nl_fcn_tiny", {"instantiation": "dot_product"}),
        Variant("embedded_gaussian", "nl_fcn_tiny"),
    ),
    "embeddings": (
        Variant("phi drawn apart", "nl_fcn_tiny", alike=False),
        Variant("phi as theta", "nl_fcn_tiny"),
    ),
}
# Where each digit needs another place.
_LEGEND_TABLES: dict[str, Table] = {
    "controls": (
        Variant("no block", "fcn_tiny"),
        Variant("mean over positions", control="mean"),
        *(Variant(name, overrides={"instantiation": name}) for name in ("dot_product", "embedded_gaussian")),
    ),
}
# Objects on the same scenes. From scratch a detector learns what its regions hold before it looks elsewhere.
_OBJECT_TABLES: dict[str, Table] = {
    "context": (
        Variant("no block", "maskrcnn_tiny", start=Start("segment-cue", "fcn_tiny")),
        Variant("embedded_gaussian", "nl1_maskrcnn_tiny", start=Start("segment-cue", "nl_fcn_tiny")),
    ),
}
_POINT_TABLES: dict[str, Table] = {
    "context": (
        Variant("no block", "keypointrcnn_tiny"),
        Variant("1 block in the body", "keypointrcnn_tiny", {"blocks": 1}),
        Variant("2 blocks in the head", "nl2head_keypointrcnn_tiny"),
        Variant("both", "nl2head1_keypointrcnn_tiny"),
    ),
}
_OWN_TABLES: dict[str, Table] = {
    "instantiations": (
        Variant("no block", overrides={"blocks": False}),
        *(Variant(name, overrides={"instantiation": name}) for name in INSTANTIATIONS),
    )
}
# Of a recipe that inserts blocks, whatever its network is.
_INSERTED_TABLES: dict[str, Table] = {
    "instantiations": (
        Variant("no block", inserted="none"),
        *(Variant(name, inserted=name) for name in INSTANTIATIONS),
    ),
    # Of controls the mean alone starts as a block does, as the identity in a trained network.
    "controls": (
        Variant("no block", inserted="none"),
        Variant("mean over positions", inserted="gaussian", control="mean"),
        Variant("dot_product", inserted="dot_product"),
        Variant("embedded_gaussian", inserted="embedded_gaussian"),
    ),
}
# By data set; others have one table, of the recipe's network.
_OF_SCENES = {
    "cue": _CUE_TABLES,
    "segment-cue": _SCENE_TABLES,
    "detect-cue": _OBJECT_TABLES,
    "keypoint-cue": _POINT_TABLES,
    "segment-legend": _LEGEND_TABLES,
}
WITH_TABLES = tuple(_OF_SCENES)


def tables(data: str, *, inserts: bool = False) -> dict[str, Table]:
    """Return the tables of a data set, by name.

    Those of the data sets of generated scenes compare networks of their own; other data sets have one table,
    of the recipe's network.

    Args:
        data: Name of the data set.
        inserts: Whether the recipe inserts blocks into its network: then these are what one table compares.

    Example:
        >>> [variant.name for variant in tables("cue")["extent"]][3:]
        ['space', 'time', 'spacetime']
        >>> list(tables("digits"))
        ['instantiations']
    """
    return _INSERTED_TABLES if inserts else _OF_SCENES.get(data, _OWN_TABLES)


def folder_name(
    model: str,
    overrides: Mapping[str, Any],
    gamma: float | None = None,
    alike: bool | None = None,
    control: str | None = None,
    inserted: str | None = None,
) -> str:
    """Return a name that says which network is in a folder, so that tables share the runs of equal ones.

    Args:
        model: Name of the network.
        overrides: As the other two, see :class:`Variant`.
        gamma: None is left out of the name, as is what follows.
        alike: The start of phi.
        control: What is in the blocks' places.
        inserted: The form of the blocks that the recipe inserts.

    Example:
        >>> folder_name("c2d_tiny", {"blocks": {"layer3": [0]}})
        'c2d_tiny-blocks-layer3-0'
    """
    changes = {"gamma": gamma, "alike": alike, "control": control, "inserted": inserted}
    settings = {**overrides, **{name: value for name, value in changes.items() if value is not None}}
    return re.sub(r"[^\w.]+", "-", model + json.dumps(settings, sort_keys=True)).strip("-")
