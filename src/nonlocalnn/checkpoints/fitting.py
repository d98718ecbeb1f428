"""Loading a state dict into a model without a silent gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nonlocalnn._errors import first_line
from nonlocalnn.checkpoints.advice import advice
from nonlocalnn.checkpoints.state import CheckpointError, State, listed
from nonlocalnn.checkpoints.wrapped import is_sharded, nearest, plain_names, unwrapped
from nonlocalnn.functional.positions import FLOATS

_COUNTER = "num_batches_tracked"


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], file: str, *, allow_partial: bool = False
) -> list[str]:
    """Copy ``state`` into ``model``, whole or, unless ``allow_partial``, not at all.

    The model may be in a wrapper, and so may the one have been that ``state`` is of. Parameters and buffers
    on the meta device get memory on the CPU; tied ones stay tied.

    Args:
        model: Receives the tensors, in its own types and on its own devices.
        state: Names and tensors; names that end in ``num_batches_tracked`` may be absent.
        file: What the error calls the checkpoint.
        allow_partial: Missing and unexpected keys are no error; those of another shape are.

    Returns:
        What is missing and unexpected, one sentence each; nothing unless ``allow_partial``.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, weights are quantised, or there is
            nothing to fill what is on the meta device with; the message names them.
    """
    gaps = check_fit(model, state, file, allow_partial=allow_partial)
    fitting = fitted(model, state)
    _check_filled(model, fitting, file)
    check_writable(model, fitting)
    # Nothing of the model has changed up to here: it is loaded whole or not at all.
    _give_memory_(model)
    # With the versions of the model's own layers, which some of torchvision's ask for.
    whole = model.state_dict()
    whole.update(fitting)
    model.load_state_dict(whole, strict=False)
    return gaps


def check_fit(
    model: nn.Module, state: Mapping[str, Tensor], file: str, *, allow_partial: bool = False
) -> list[str]:
    """Check that ``state`` fits ``model``, which may be without memory; see :func:`load_state`."""
    own, names = _own(model, state)
    given = fitted(model, state)
    tensors = _tensors(model)
    filled = {id(tensors[key]) for key in given if key in tensors}
    for key in names:
        if is_sharded(own[key]) or type(own[key]).__name__ == "DTensor":
            raise CheckpointError(f"{key} of the model is sharded over ranks: load first, then shard")
        if is_lazy(own[key]):
            raise CheckpointError(f"{key} of the model has no shape yet: run the model once, then load")
    # Before the keys: files of quantised weights have scales beside them, which are unexpected.
    check_types(own, given, file)
    _check_tied(tensors, given, file)
    # A counter of batches changes nothing in eval mode, and older files lack it.
    missing = [
        name
        for key, name in names.items()
        # One of the names of tied weights is enough.
        if key not in given and id(tensors.get(key)) not in filled and not key.endswith(_COUNTER)
    ]
    unexpected = [key for key in given if key not in own]
    misshaped = [
        f"{names.get(key, key)} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in given.items()
        if key in own and value.shape != own[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
    problems = [f"{kind} keys: {listed(keys)}" for kind, keys in kinds if keys]
    if problems and (misshaped or not allow_partial):
        problems += advice(file, state, list(names.values()), missing, unexpected)
        raise CheckpointError(
            f"{file} does not fit {type(unwrapped(model)).__name__}: " + "; ".join(problems)
        )
    return problems


def check_types(own: Mapping[str, Tensor], given: Mapping[str, Tensor], file: str) -> None:
    """Check that what the network has in floating point is so in a file, and that its types hold the numbers.

    Raises:
        CheckpointError: A tensor has whole numbers or float8 there, or numbers that the network's type does
            not hold: too large ones, or fractions where it has whole numbers; the message names it.
    """
    # Copied as they are, they would be another network's weights: their scales lie elsewhere.
    wrong = [
        f"{key} {str(value.dtype).removeprefix('torch.')}"
        for key, value in given.items()
        if key in own and own[key].dtype.is_floating_point and value.dtype not in (*FLOATS, own[key].dtype)
    ]
    if wrong:
        raise CheckpointError(
            f"{file} holds quantised weights or whole numbers where the network has floating point: "
            f"{listed(wrong)}; dequantise them first, each by its scale, and save the result as float32"
        )
    changed = [
        f"{key} {str(value.dtype).removeprefix('torch.')} for {str(own[key].dtype).removeprefix('torch.')}"
        for key, value in given.items()
        if key in own and not key.endswith(_COUNTER) and not _holds(own[key].dtype, value)
    ]
    if changed:
        raise CheckpointError(
            f"{file} holds numbers that are too large for the network's type, or rounded ones or fractions "
            f"where it has whole numbers: {listed(changed)}; save these in the network's type, or load into "
            "a model of the file's"
        )


def _holds(dtype: torch.dtype, value: Tensor) -> bool:
    """Return whether a type has room for a tensor's numbers; one of whole numbers, for these as they are."""
    if value.dtype == dtype or dtype.is_complex:
        return True
    if dtype.is_floating_point:
        most = torch.finfo(dtype).max
        is_wider = torch.finfo(value.dtype).max > most
        return not (is_wider and bool((value.isfinite() & (value.abs() > most)).any()))
    # From there on a type cannot tell a number from the next: an index may have been rounded.
    if value.dtype.is_floating_point and (
        value.dtype not in FLOATS or not bool((value.abs() < 2 / torch.finfo(value.dtype).eps).all())
    ):
        return False
    try:
        held = value.to(dtype)
        # As fractions too: 255 becomes -1 in a signed byte, and 255 again on the way back.
        return torch.equal(held.to(value.dtype), value) and torch.equal(held.double(), value.double())
    except RuntimeError:  # types for storing only
        return False


def _check_tied(tensors: Mapping[str, Tensor], given: Mapping[str, Tensor], file: str) -> None:
    """Check that names of one tensor of the model have the same numbers in a file: the last would count."""
    firsts: dict[int, str] = {}
    for key, value in given.items():
        first = key if key not in tensors else firsts.setdefault(id(tensors[key]), key)
        if key != first and not _are_same(value, given[first]):
            raise CheckpointError(
                f"{first} and {key} are one tensor of the model, and differ in {file}: untie them, then load"
            )


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same numbers, of whatever types; weights that diverged are NaN."""
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=0, atol=0, equal_nan=True
    )


def check_writable(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Check that numbers can be copied into what of a model is given, by copying its own.

    Raises:
        CheckpointError: Something cannot take them, as what was made in inference mode or expanded.
    """
    for key, value in _tensors(model).items():
        try:
            if key in given:
                with torch.no_grad():
                    value.copy_(value.clone())
        except RuntimeError as error:
            raise CheckpointError(f"{key} of the model cannot be written to: {first_line(error)}") from None


def fitted(model: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Return ``state`` under the keys of ``model``, as far as it has them, whatever wraps either of them."""
    _, names = _own(model, state)
    keys = {name: key for key, name in names.items()}
    return {keys.get(name, name): value for name, value in nearest(state, keys).items()}


def _own(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a model's state dict, and by its keys the names that are asked for."""
    own = model.state_dict()
    # A wrapper's own state, such as how many states it averaged, is asked for where it is all there.
    return own, {key: key for key in own} if own.keys() == state.keys() else plain_names(model, own)


def _check_filled(model: nn.Module, given: State, file: str) -> None:
    """Check that whatever is on the meta device is in the file."""
    tensors = _tensors(model)
    filled = {id(value) for key, value in tensors.items() if key in given}
    empty = [
        key
        for key, value in tensors.items()
        if value.is_meta and id(value) not in filled and not key.endswith(_COUNTER)
    ]
    if empty:
        raise CheckpointError(
            f"{file} has nothing for {listed(empty)}, which the model has on the meta device: make the "
            "model in memory, then load"
        )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, tied ones by each: the objects themselves."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return tensors | dict(model.named_buffers(remove_duplicate=False))


def _give_memory_(model: nn.Module) -> None:
    """Replace what is on the meta device by memory on the CPU, the same for the same."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for group in (module._parameters, module._buffers):
            for name, value in group.items():
                if value is None or not value.is_meta:
                    continue
                if id(value) not in made:
                    memory = torch.zeros_like(value, device="cpu", requires_grad=False)
                    is_parameter = isinstance(value, nn.Parameter)
                    made[id(value)] = nn.Parameter(memory, value.requires_grad) if is_parameter else memory
                cast(dict[str, Tensor], group)[name] = made[id(value)]
