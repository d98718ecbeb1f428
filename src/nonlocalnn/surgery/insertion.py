"""Non-local blocks put into a network that somebody else wrote, and taken out again."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DistributedDataParallel

from nonlocalnn._errors import check_choice, check_module
from nonlocalnn.blocks import BLOCKS, NonLocalNd, Norm, SubSample, nonlocal_blocks
from nonlocalnn.functional import Instantiation
from nonlocalnn.functional.geometry import Extent
from nonlocalnn.functional.norms import name_of
from nonlocalnn.models.bottleneck import Bottleneck
from nonlocalnn.models.start import start_from_scratch
from nonlocalnn.surgery.detectors import follow_padding_
from nonlocalnn.surgery.insertion_report import InsertedBlock, InsertionReport, describe, summarize
from nonlocalnn.surgery.insertion_sites import CHILD, certain_map, find_sites, observe_maps, sites
from nonlocalnn.surgery.matching import matching_norm

__all__ = [
    "InsertedBlock",
    "InsertionReport",
    "insert_nonlocal_",
    "remove_nonlocal_",
    "sites",
]

# A module passes its block one map: such a block has no context.
_SETTINGS = tuple(
    name
    for name in inspect.signature(NonLocalNd).parameters
    if name not in ("context_channels", "device", "dtype")
)
_NORMS = ("norm", "pre_norm")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def insert_nonlocal_(
    model: nn.Module,
    after: Sequence[str] | str | None = None,
    *,
    pattern: str | None = None,
    example_input: object = None,
    inter_channels: int | None = None,
    value_channels: int | None = None,
    num_heads: int = 1,
    instantiation: Instantiation = "embedded_gaussian",
    sub_sample: SubSample = "after",
    pool_size: int | Sequence[int] | None = None,
    use_scale: bool = False,
    norm: Norm | Literal["auto"] = "auto",
    pre_norm: Norm = None,
    zero_init: bool = True,
    extent: Extent = "spacetime",
) -> InsertionReport:
    r"""Let a non-local block follow each of the named modules, in place.

    The block becomes the child ``nl`` of the module that it follows: ``layer3.4`` gets ``layer3.4.nl``, and
    all other state-dict keys stay as they are, so that pretrained weights load before and after. At
    ``zero_init`` the network's outputs do not change. The block has the device, type and mode of the module.

    Detectors of torchvision pad the images of a batch: blocks in their backbones weigh real positions only,
    see :func:`nonlocalnn.real_positions`.

    Insert before the optimiser is made, or make it of :func:`nonlocalnn.param_groups` again: it does not
    know of parameters that come later.

    Args:
        model: Any network whose named modules return maps (B, C, \*sides).
        after: A name or several, as in ``model.named_modules()``, or their ends: "layer3.4" also stands for
            "backbone.layer3.4", and for all of them where there are several, unless one is called exactly
            so. :func:`sites` names the paper's places.
        pattern: Instead of ``after``, a regular expression, which must match the whole of a name:
            ``r"layer3\.\d+"``.
        example_input: What ``model`` takes; a tuple is several arguments. It is run once, in eval mode, to
            learn the sites' channels and ranks. Convolutions, batch normalisations, the blocks of
            torchvision's, timm's and this library's ResNets and ``nn.Sequential`` that end in one of these
            do not need it, but the report knows positions and FLOPs only with it.
        inter_channels: This and all that follows is as in :class:`nonlocalnn.NonLocal2d`.
        value_channels: Channels of g.
        num_heads: Heads.
        instantiation: The pairwise function.
        sub_sample: Where keys are pooled.
        pool_size: The window of sub-sampling.
        use_scale: Scale the logits.
        norm: What follows W_z. "auto" is what goes with the network's own norms: "group" where most are
            group normalisations, None where most are frozen, and else "batch". The report says which.
        pre_norm: What theta, phi and g read the map through.
        zero_init: Start as the identity; else as :func:`.start_from_scratch` says.
        extent: Which positions of a video see each other.

    Returns:
        What was inserted where, and what it adds.

    Raises:
        ValueError: Not exactly one of ``after`` and ``pattern`` is given, or it matches nothing; a module has
            a block already, returns no map, or needs an ``example_input``; or a setting is refused. Nothing
            is changed then.
        TypeError: ``model`` is no module.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
        >>> x = torch.rand(1, 3, 12, 10)
        >>> before = model(x)
        >>> print(insert_nonlocal_(model, ["0"], example_input=x))
        after  block                     input      N   M  channels  inner   norm  parameters  MFLOPs
        0      0.nl (embedded_gaussian)  1x8x10x8  80  20         8      4  batch         164   0.046
        added                                                                             164   0.046
        >>> torch.equal(model(x), before), list(nonlocal_blocks(model))
        (True, ['0.nl'])
    """
    check_module(model)
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise ValueError(
            "DistributedDataParallel does not synchronise parameters that come later: insert before wrapping"
        )
    found = find_sites(model, after, pattern)
    for name, site in found.items():
        _check_site(name, site)
    chosen: Norm = matching_norm(model) if norm == "auto" else norm
    shapes = {} if example_input is None else observe_maps(model, found, example_input)
    blocks: dict[str, NonLocalNd] = {}
    entries = []
    for name, site in found.items():
        seen = shapes.get(name, [])
        channels, num_sides = (seen[0][1], len(seen[0]) - 2) if seen else _require_map(name, site)
        block = BLOCKS[num_sides - 1](
            channels,
            inter_channels=inter_channels,
            value_channels=value_channels,
            num_heads=num_heads,
            instantiation=instantiation,
            sub_sample=sub_sample,
            pool_size=pool_size,
            use_scale=use_scale,
            norm=chosen,
            pre_norm=pre_norm,
            zero_init=zero_init,
            extent=extent,
        )
        if not zero_init:
            start_from_scratch(block)
        entries.append(describe(name, f"{name}.{CHILD}", block, seen))
        like = _like(site, model)
        blocks[name] = block.to(like.device, like.dtype).train(site.training)
    for name, block in blocks.items():
        _attach(found[name], block)
    follow_padding_(model)
    return summarize(entries)


def remove_nonlocal_(model: nn.Module, blocks: Sequence[str] | None = None) -> list[str]:
    """Take non-local blocks out of a network, in place: what :func:`insert_nonlocal_` did is undone.

    Blocks of this library's bottlenecks can be taken out, too. Those that a network calls by itself, as
    ``nl_digits`` does, stay.

    Args:
        model: The network.
        blocks: Names as in :func:`nonlocalnn.nonlocal_blocks`; None is all that can be taken out.

    Returns:
        The names of the blocks that were taken out.

    Raises:
        ValueError: There is no such block, or it is one that the network calls by itself. Nothing is changed
            then.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> _ = insert_nonlocal_(model, ["0"])
        >>> remove_nonlocal_(model)
        ['0.nl']
    """
    removable = {}
    for name in nonlocal_blocks(model):
        owner, _, child = name.rpartition(".")
        site = model.get_submodule(owner)
        if child == CHILD and _can_be_without(site):
            removable[name] = site
    if not removable:
        raise ValueError("the model has no non-local block that can be taken out")
    chosen = list(removable) if blocks is None else list(blocks)
    for name in chosen:
        check_choice("a block to take out", name, tuple(removable))
    for name in dict.fromkeys(chosen):
        _detach(removable[name])
    return list(dict.fromkeys(chosen))


def inserted_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what makes each block again that follows a module as its child ``nl``, by the module's name.

    It is read off the blocks themselves, so that it is right whatever was inserted, removed or copied. A
    block that the network calls by itself is not among them. Settings that came after the first version are
    left out where they are as usual, so that older versions read what they can make. A norm by a function of
    one's own is told by its class, which makes none again.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> _ = insert_nonlocal_(model, ["0"], sub_sample=None)
        >>> inserted_settings(model)["0"]["sub_sample"], inserted_settings(model)["0"]["num_sides"]
        (None, 2)
    """
    found = {}
    for name, block in nonlocal_blocks(model).items():
        owner, _, child = name.rpartition(".")
        if type(block) in BLOCKS and child == CHILD and _can_be_without(model.get_submodule(owner)):
            settings = {
                each: name_of(getattr(block, each)) if each in _NORMS else getattr(block, each)
                for each in _SETTINGS
            }
            usual = {
                "value_channels": block.inter_channels,
                "num_heads": 1,
                "pool_size": None,
                "pre_norm": None,
            }
            for each, value in usual.items():
                if settings[each] == value:
                    del settings[each]
            found[owner] = {"num_sides": BLOCKS.index(type(block)) + 1, **settings}
    return found


def insert_again_(model: nn.Module, inserted: Mapping[str, Mapping[str, Any]]) -> None:
    """Put blocks into a network, in place, by what :func:`inserted_settings` says of them.

    Raises:
        ValueError: There is no such module, a block cannot follow it, or a setting is refused.
        TypeError: A setting is unknown or missing.
    """
    modules = dict(model.named_modules())
    for name, settings in inserted.items():
        check_choice("a module that a block follows", name, tuple(modules))
        check_choice("num_sides", settings.get("num_sides"), (1, 2, 3))
        _check_site(name, modules[name])
        like = _like(modules[name], model)
        block = BLOCKS[settings["num_sides"] - 1](
            **{each: value for each, value in settings.items() if each != "num_sides"}
        )
        _attach(modules[name], block.to(like.device, like.dtype).train(modules[name].training))
    follow_padding_(model)


def _check_site(name: str, site: nn.Module) -> None:
    """Check that a block can be made a child of the module, and will run after it and only there."""
    if isinstance(getattr(site, CHILD, None), NonLocalNd):
        raise ValueError(f"{name!r} has a non-local block already: {name}.{CHILD}")
    if hasattr(site, CHILD) and not isinstance(site, Bottleneck):
        raise ValueError(f"{name!r} has an attribute {CHILD!r} of its own, which a block would replace")
    if isinstance(site, fx.GraphModule | torch.jit.ScriptModule) or "forward" in vars(site):
        raise ValueError(
            f"the forward pass of {name!r} is fixed: insert before tracing, scripting or patching"
        )
    if isinstance(site, _CONTAINERS) and type(site).forward is not nn.Sequential.forward:
        raise ValueError(
            f"{name!r} is a {type(site).__name__}, a container that may run whatever is put into it: "
            "choose a module inside it or the one around it"
        )


def _require_map(name: str, site: nn.Module) -> tuple[int, int]:
    known = certain_map(site)
    if known is None:
        raise ValueError(
            f"what {name!r} returns, a {type(site).__name__}, is known only after a run: pass example_input"
        )
    return known


def _like(site: nn.Module, model: nn.Module) -> Tensor:
    """Return a tensor with the device and the type that a block at this site should have."""
    tensors = itertools.chain(site.parameters(), site.buffers(), model.parameters(), model.buffers())
    return next((each for each in tensors if each.is_floating_point()), torch.empty(0))


def _attach(site: nn.Module, block: NonLocalNd) -> None:
    base: Any = type(site)
    setattr(site, CHILD, block)
    if not _runs_child(site):
        # A forward hook would be shorter. But hooks are skipped by whoever calls forward() itself, and some
        # tools clear them, as counting FLOPs does here. A wrapper would rename the state-dict keys.
        site.__class__ = _with_block(base)


def _detach(site: nn.Module) -> None:
    delattr(site, CHILD)
    if isinstance(site, Bottleneck):
        site.nl = None
    elif not _runs_child(site):
        site.__class__ = vars(type(site))["_without_block"]


def _runs_child(site: nn.Module) -> bool:
    """Return whether the module itself runs its child last: a sequence does, and so does our bottleneck."""
    return isinstance(site, Bottleneck) or type(site).forward is nn.Sequential.forward


def _can_be_without(site: nn.Module) -> bool:
    return _runs_child(site) or "_without_block" in vars(type(site))


@functools.cache
def _with_block(base: Any) -> type[nn.Module]:
    """Return a subclass whose instances give what ``base`` returns to their block."""

    # With the signature of the base, by which torch.fx and others name the inputs.
    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        return self.nl(base.forward(self, *args, **kwargs))

    def reduce(self: Any) -> tuple[object, ...]:
        # The class has no name that pickle and deepcopy could look up: they make it again.
        return _new_with_block, (base,), self.__getstate__()

    members = {"forward": forward, "__reduce__": reduce, "_without_block": base, "__module__": __name__}
    return type(f"{base.__name__}WithNonLocal", (base,), members)


def _new_with_block(base: Any) -> nn.Module:
    kind = _with_block(base)
    return kind.__new__(kind)
