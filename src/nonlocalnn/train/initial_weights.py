"""Initial weights of a training, from a checkpoint of another network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint
from nonlocalnn.checkpoints.fitting import check_types
from nonlocalnn.checkpoints.native import is_safetensors, read_native
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.checkpoints.state import read_weights
from nonlocalnn.checkpoints.wrapped import nearest
from nonlocalnn.functional.layers import fold_norm
from nonlocalnn.models import (
    DetectionNetwork,
    DigitsNetwork,
    ResidualNetwork,
    SegmentationNetwork,
    inflate_,
)
from nonlocalnn.models.libraries import is_of_library, last_layer
from nonlocalnn.train.detector_weights import BODY, NEW_IN_DETECTORS, check_constant, torchvisions_names

# Torchvision's segmentation networks: where the body is, and what is new with other classes.
_LIBRARY_BODY = "backbone."
_OF_SEGMENTATION = ("classifier.", "aux_classifier.")


def start_from_(model: nn.Module, path: Path) -> list[str]:
    """Copy a checkpoint's weights into a network, in place.

    A checkpoint of ours may be of a network with other norms, fewer blocks or other classes. Frozen norms
    take the statistics of batch normalisation. Where a block has no norm, the checkpoint's is folded into
    W_z. Blocks and the last layer keep their own values where the checkpoint has none that fit. The state
    dict of an image ResNet is inflated by :func:`nonlocalnn.inflate_`. A network of another library takes
    the file of its published weights, with blocks inserted or not. A segmentation network takes its own
    checkpoint, or the body of an image ResNet of the same depth, of ours or torchvision's; torchvision's
    take the weights of a classifier that is their body. So does a detector, whose body may also be a
    segmentation network's; torchvision's published detectors fit too.

    Args:
        model: A network of :func:`nonlocalnn.create_model`, or of torchvision or timm.
        path: A safetensors file, a run's folder, whose best weights are taken, or a file of ``torch.save``
            with a state dict of an image network.

    Returns:
        Names of the parameters and statistics that kept their own values.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no finished epoch.
        CheckpointError: It cannot be read, or is not of a network like this one.
    """
    path = weights_file(path)
    own, heads = model.state_dict(), _heads_of(model)
    if isinstance(model, DetectionNetwork):
        given, heads = _for_detector(model, path)
    elif not isinstance(model, ResidualNetwork | DigitsNetwork):
        given = nearest(_weights_of(path), own)
        if heads == _OF_SEGMENTATION and not any(name.startswith(_LIBRARY_BODY) for name in given):
            given = _as_library_body(given, own)
    elif is_safetensors(path):
        given = _comparable(load_checkpoint(path), model)
    else:
        return _inflated(model, path)
    taken: dict[str, Tensor] = {}
    for name, value in given.items():
        fits = name in own and own[name].shape == value.shape
        if fits:
            taken[name] = value
        elif not name.startswith(heads):
            found = "the network lacks it" if name not in own else f"it is {tuple(own[name].shape)} there"
            raise CheckpointError(f"{path} is of another network: {name} is {tuple(value.shape)} and {found}")
    check_types(own, taken, str(path))
    kept = [name for name in own if name not in taken and not name.endswith("num_batches_tracked")]
    missing = [name for name in kept if ".nl." not in f".{name}" and not name.startswith(heads)]
    if missing:
        raise CheckpointError(
            f"{path} is of another network: it lacks {missing[0]} and {len(missing) - 1} more"
        )
    with torch.no_grad():
        for name, value in taken.items():
            own[name].copy_(value)
    return kept


def _heads_of(model: nn.Module) -> tuple[str, ...]:
    """Return how names of the last layer's parameters begin: it has the other data's classes."""
    head = last_layer(model)
    own = next((f"{name}." for name, module in model.named_modules() if module is head), "fc.")
    # Bodies of segmentation networks are trained as classifiers first, whose last layer is left out.
    if isinstance(model, SegmentationNetwork):
        return "head.", "auxiliary.", "fc."
    if is_of_library(model) and hasattr(model, "backbone"):
        return _OF_SEGMENTATION
    return (own,)


def _as_library_body(given: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a classifier's weights as those of the body of torchvision's segmentation networks."""
    # Its bodies are what a classifier calls its features, or of residual networks all but the last layer.
    named = {f"{_LIBRARY_BODY}{name.removeprefix('features.')}": value for name, value in given.items()}
    return {name: value for name, value in named.items() if name in own}


def _for_detector(model: DetectionNetwork, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return weights under a detector's names, and how names begin whose values may be its own."""
    own = model.state_dict()
    if is_safetensors(path):
        source = load_checkpoint(path)
        if not isinstance(source, DetectionNetwork):
            return _as_body(_comparable(source, model.backbone.body), own)
        return _comparable(source, model), NEW_IN_DETECTORS
    found = {
        name: value for name, value in _weights_of(path).items() if not name.endswith("num_batches_tracked")
    }
    given = torchvisions_names(nearest(found, own), model.num_classes)
    if any(name.startswith(BODY) for name in given):
        check_constant(model, path)
        return given, NEW_IN_DETECTORS
    body = [name.removeprefix(BODY) for name in own if name.startswith(BODY)]
    return _as_body(nearest(given, body), own)


def _as_body(given: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights of a classifier or a segmentation network as those of a detector's body."""
    # What comes after a body is another task's, and the names of its layers are no detector's.
    taken = {f"{BODY}{name}": value for name, value in given.items() if f"{BODY}{name}" in own}
    return taken, ("backbone.fpn.", "rpn.", "roi_heads.", f"{BODY}head.")


def _weights_of(path: Path) -> dict[str, Tensor]:
    """Return a state dict as it lies in a file, of safetensors or of ``torch.save``."""
    native = read_native(path)
    return read_weights(path, refusal=native)[0] if isinstance(native, str) else native[2]


def _inflated(model: nn.Module, path: Path) -> list[str]:
    given = nearest(read_weights(path)[0], model.state_dict())
    check_types(model.state_dict(), given, str(path))
    try:
        return inflate_(model, given)
    except ValueError as error:
        raise CheckpointError(f"{path} is no image network that fits this one: {error}") from None


def _comparable(source: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``source``, with norms of blocks folded into W_z where ``model`` has no norm."""
    state = {
        name: value for name, value in source.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    twins = nonlocal_blocks(model)
    for name, block in nonlocal_blocks(source).items():
        # A batch normalisation is one factor and term a channel; no other norm is.
        is_batch = isinstance(block.norm, nn.modules.batchnorm._BatchNorm)
        if is_batch and name in twins and twins[name].norm is None:
            state[f"{name}.W_z.weight"], state[f"{name}.W_z.bias"] = fold_norm(block.W_z, block.norm)
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.norm.")}
    return state
