"""Models inside wrappers, and the names that weights have in them and without them.

``torch.compile``, DataParallel, AveragedModel and their like keep a model as a child of theirs and put a word
before its keys: ``_orig_mod.layer1.0.weight``. The plain name is the one without.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from nonlocalnn._device import eval_mode
from nonlocalnn._errors import check_module
from nonlocalnn.functional.layers import WRAPPER_WORDS

_BY_CLASS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
# Of libraries that need not be there: timm, mmengine, DeepSpeed.
_BY_NAME = {"ModelEmaV2", "ModelEmaV3", "ModelEMA", "BaseAveragedModel", "DeepSpeedEngine"}
_COMPUTING_HOOKS = (SpectralNorm, WeightNorm, BasePruningMethod)
# How often AveragedModel averaged, and mmengine's models of averages.
_COUNTERS = ("n_averaged", "steps")
_MOST_WORDS = 4


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside compiled models, DataParallel, AveragedModel and the like; else itself.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(layer)) is layer
        True
    """
    while (inner := _inner(model)) is not None:
        model = cast(nn.Module, model._modules[inner])
    return model


def plain_names(model: nn.Module, keys: Collection[str]) -> dict[str, str]:
    """Return the plain name of each key of a model's state dict; what only a wrapper has, is left out."""
    names = {key: _plain(model, key) for key in keys}
    return {key: name for key, name in names.items() if name is not None}


def plain_model(model: nn.Module) -> nn.Module:
    """Return a model without wrappers, and with one weight for each that it computes from others.

    What must change is a copy of the module, in which all other tensors are the model's own; the model stays
    as it is. The computed weights are those of eval mode.

    Example:
        >>> from torch.nn.utils import parametrizations
        >>> normed = nn.Sequential(nn.DataParallel(parametrizations.weight_norm(nn.Linear(2, 2))))
        >>> list(plain_model(normed).state_dict())
        ['0.bias', '0.weight']

    Raises:
        TypeError: It is no module.
    """
    check_module(model)
    return _plain_module(model, {})


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's tensors on the CPU under plain names.

    Raises:
        ValueError: A tensor has no numbers here: it is sharded over ranks, or on the meta device.
    """
    state = dict(model.state_dict())
    names = plain_names(model, state)
    return {names[key]: _copied(key, value) for key, value in state.items() if key in names}


def variants(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Give a state dict as it is, then with fewer and fewer of the words that wrappers put before keys."""
    yield dict(state)
    current = _renamed(state, lambda words: [word for word in words if word not in WRAPPER_WORDS])
    for _ in range(_MOST_WORDS):
        yield current
        without = _renamed(current, lambda words: [word for word in words if word != "module"])
        if without.keys() != current.keys():
            yield without
        firsts = Counter(key.partition(".")[0] for key in current if "." in key)
        if not firsts:
            return
        first = firsts.most_common(1)[0][0]
        current = _renamed(current, lambda words, first=first: words[1:] if words[0] == first else words)


def nearest(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return the first of a state dict's :func:`variants` with the most of the given names.

    Example:
        >>> import torch
        >>> list(nearest({"module._orig_mod.fc.weight": torch.zeros(1)}, ["fc.weight"]))
        ['fc.weight']
    """
    wanted = set(names)
    # The model's names decide how many words to drop: a model may have a child `module` of its own.
    # max keeps the first of equals.
    best = max(variants(state), key=lambda variant: len(wanted & variant.keys()))
    for counter in _COUNTERS:
        if counter in best and counter not in wanted and best[counter].numel() == 1:
            del best[counter]
    return best


def _renamed(state: Mapping[str, Tensor], rename: Any) -> dict[str, Tensor]:
    renamed = {".".join(rename(key.split(".")) or [key]): value for key, value in state.items()}
    return renamed if len(renamed) == len(state) else dict(state)


def _inner(module: nn.Module | None) -> str | None:
    """Return under which name a wrapper keeps its model; None where the module is no wrapper."""
    if module is None:
        return None
    for name in WRAPPER_WORDS:
        if name in module._modules:
            return name
    classes = {each.__name__ for each in type(module).__mro__}
    is_wrapper = isinstance(module, _BY_CLASS) or not classes.isdisjoint(_BY_NAME)
    return "module" if is_wrapper and "module" in module._modules else None


def _plain(model: nn.Module, key: str) -> str | None:
    module: nn.Module | None = model
    words = []
    for word in key.split("."):
        while module is not None and (inner := _inner(module)) not in (None, word):
            if word in module._parameters or word in module._buffers:
                return None
            module = module._modules[inner]  # some wrappers leave their word out of keys
        if word != _inner(module):
            words.append(word)
        module = None if module is None else module._modules.get(word)
    return ".".join(words)


def _plain_module(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    module = unwrapped(module)
    if id(module) not in made:
        made[id(module)] = module  # some modules hold themselves
        computed = _computed(module)
        children = {
            name: None if child is None else _plain_module(child, made)
            for name, child in module._modules.items()
            if not (computed and name == "parametrizations")
        }
        if computed or any(children[name] is not child for name, child in module._modules.items()):
            made[id(module)] = _changed(module, children, computed)
    return made[id(module)]


def _changed(
    module: nn.Module,
    children: dict[str, nn.Module | None],
    computed: Mapping[str, tuple[Tensor, tuple[str, ...]]],
) -> nn.Module:
    """Return a copy of a module with other children, and with the computed weights as its own."""
    copied: nn.Module = object.__new__(parametrize.type_before_parametrizations(module))
    copied.__dict__ = vars(module) | {
        "_modules": children,
        "_parameters": dict(module._parameters),
        "_buffers": dict(module._buffers),
        # These would compute the weights again, of what is gone.
        "_forward_pre_hooks": OrderedDict(
            (key, hook)
            for key, hook in module._forward_pre_hooks.items()
            if not isinstance(hook, _COMPUTING_HOOKS)
        ),
    }
    for name, (value, others) in computed.items():
        for part in (name, *others):
            for group in (vars(copied), copied._parameters, copied._buffers):
                group.pop(part, None)
        copied._parameters[name] = nn.Parameter(value.detach(), requires_grad=False)
    return copied


def _computed(module: nn.Module) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Return the weights of one module that are computed from others, and the others' names.

    They are computed as in eval mode: no power iteration is run, and nothing of the model changes.
    """
    found: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            value = hook.compute_weight(module, do_power_iteration=False)
            found[hook.name] = value, tuple(f"{hook.name}_{part}" for part in ("orig", "u", "v"))
        elif isinstance(hook, WeightNorm):
            found[hook.name] = hook.compute_weight(module), (f"{hook.name}_g", f"{hook.name}_v")
        elif isinstance(hook, BasePruningMethod):
            name = hook._tensor_name
            found[name] = hook.apply_mask(module), (f"{name}_orig", f"{name}_mask")
    if parametrize.is_parametrized(module):
        parametrizations = cast(nn.ModuleDict, module.parametrizations)
        for name, each in parametrizations.items():
            with eval_mode(each):
                found[name] = getattr(module, name), ()
    return found


def is_sharded(value: object) -> bool:
    """Return whether a tensor is one of several ranks' parts of another, and not all of it."""
    kind = type(value).__name__
    if kind == "DTensor":
        parts: Any = value
        return parts.device_mesh.size() > 1 and not all(each.is_replicate() for each in parts.placements)
    return kind == "ShardedTensor"


def _copied(key: str, value: Any) -> Tensor:
    # Refused and not gathered: gathering waits for ever where one rank alone saves.
    if is_sharded(value):
        raise ValueError(
            f"{key} is sharded over ranks: load what torch.distributed.checkpoint.state_dict."
            "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) gives on every rank "
            "into a model that is not sharded, and save that"
        )
    if type(value).__name__ == "DTensor":
        value = value.to_local()
    if type(value) not in (Tensor, nn.Parameter):
        raise ValueError(f"{key} must be a plain tensor; it is a {type(value).__name__}")
    if value.is_meta:
        raise ValueError(f"{key} has no numbers: it is on the meta device, or moved away between calls")
    # A clone, since safetensors refuses tensors that share memory.
    copied: Tensor = value.detach().cpu().contiguous().clone()
    return copied
