"""Which of a file's entries are its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nonlocalnn.checkpoints.restricted_pickle import Placeholder

# Earlier names go first only in what is asked for: two of one kind are an error.
_OWN = ("model_state", "model_state_dict", "state_dict", "model", "net", "network", "module", "weights")
_AVERAGED = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict")
_DEEPEST = 8
# A module that holds itself, or many in many places, has names without end.
_MOST_PARTS, _LONGEST_NAME = 100_000, 1000


def weights_in(content: object, path: object, entry: str | None) -> object:
    """Return what of a file's content its weights should be, which the caller checks.

    A mapping of tensors is taken as it is, and of a module that was saved whole its parameters and buffers.
    Otherwise the entry is taken whose name says that it holds a model's weights, and in it the same again.
    Averaged weights are taken where there are no others; where there are both, a warning says so. Files of
    mmengine have the averages under ``state_dict``, which are taken.

    Args:
        content: What the file holds.
        path: What messages call it.
        entry: The name of the entry to take, or what stands before the names of the weights to take; None
            follows the rule.

    Raises:
        ValueError: There is no such entry, or it cannot be said which of several is meant.
    """
    content = _as_mapping(content, path)
    if entry is not None:
        if not isinstance(content, Mapping) or entry not in content:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of averages, which nobody has asked for
                named = under_prefix(weights_in(content, path, None), entry)
            if not named:
                raise ValueError(f"{path} has no entry {entry!r}{_offer(content)}")
            return named
        content = _as_mapping(content[entry], path)
    for _ in range(_DEEPEST):
        own, averaged = _found(content, _OWN), _found(content, _AVERAGED)
        if not own and not averaged:
            break
        taken = own or averaged
        if len(taken) > 1:
            raise ValueError(
                f"{path} holds weights under {_quoted(taken)}: give entry={taken[0]!r}, or another of them"
            )
        if own and averaged and not _is_of_mmengine(content):
            warnings.warn(
                f"{path} holds the weights {own[0]!r} and averages of them, {_quoted(averaged)}: {own[0]!r} "
                f"is taken; give entry={averaged[0]!r} for the averages",
                stacklevel=2,
            )
        assert isinstance(content, Mapping)
        content = _as_mapping(content[taken[0]], path)
    return content


def under_prefix(state: object, prefix: str) -> dict[str, Any]:
    """Return what of a state dict lies under a prefix, without it: one of several networks.

    Example:
        >>> under_prefix({"student.weight": 1, "teacher.weight": 2}, "teacher")
        {'weight': 2}
    """
    items = state.items() if isinstance(state, Mapping) else ()
    begin = f"{prefix}".removesuffix(".") + "."
    return {str(key).removeprefix(begin): value for key, value in items if str(key).startswith(begin)}


def _is_of_mmengine(content: object) -> bool:
    """Return whether mmengine wrote a file: its hook swaps both, and ``state_dict`` holds the averages."""
    if not isinstance(content, Mapping):
        return False
    meta = content.get("meta")
    return "message_hub" in content or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def entries_of(content: object) -> list[str]:
    """Return the names of the entries that hold tensors by name, for a message."""
    if not isinstance(content, Mapping):
        return []
    return [str(name) for name, value in content.items() if _holds_weights(value)]


def _offer(content: object) -> str:
    names = entries_of(content)
    return f"; tensors lie under {_quoted(names[:8])}" if names else ""


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name)[:100] for name in names)


def _found(content: object, names: tuple[str, ...]) -> list[str]:
    if not isinstance(content, Mapping):
        return []
    return [name for name in names if name in content and _holds_weights(content[name])]


def _holds_weights(value: object) -> bool:
    """Return whether a value is a mapping with tensors, itself or in an entry with the name of weights."""
    stack, seen = [value], set()  # a pickle may hold one mapping in many places, or in itself
    while stack:
        each = stack.pop()
        if _is_module(each):
            return True
        if not isinstance(each, Mapping) or id(each) in seen:
            continue
        seen.add(id(each))
        if any(isinstance(tensor, Tensor) for tensor in each.values()):
            return True
        stack.extend(each[name] for name in (*_OWN, *_AVERAGED) if name in each)
    return False


def _is_module(value: object) -> bool:
    state = value.state if isinstance(value, Placeholder) else None
    return isinstance(state, Mapping) and all(
        isinstance(state.get(name), Mapping) for name in ("_parameters", "_buffers", "_modules")
    )


def _as_mapping(value: object, path: object) -> object:
    """Return the state dict of a module that was saved whole; anything else as it is."""
    if not _is_module(value):
        return value
    found: dict[str, Any] = {}
    # A stack of our own: modules may lie deeper than Python calls functions.
    stack: list[tuple[str, Any]] = [("", value)]
    for _ in range(_MOST_PARTS):
        if not stack:
            return found
        prefix, module = stack.pop()
        if len(found) > _MOST_PARTS or len(prefix) > _LONGEST_NAME:
            break
        if not _is_module(module):
            continue
        # Buffers that state_dict() leaves out: the model makes them anew.
        left_out = module.state.get("_non_persistent_buffers_set")
        left_out = left_out if isinstance(left_out, set) else set()
        for kind in ("_parameters", "_buffers"):
            for name, tensor in module.state[kind].items():
                if tensor is not None and not (kind == "_buffers" and name in left_out):
                    found[f"{prefix}{name}"] = tensor
        children = module.state["_modules"].items()
        stack.extend((f"{prefix}{name}.", child) for name, child in reversed(list(children)))
    raise ValueError(f"{path} holds a module of more than {_MOST_PARTS} parts")
