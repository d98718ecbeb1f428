"""Image networks' weights for a video network: which files hold them, and what they leave as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from nonlocalnn.checkpoints.fitting import check_types, check_writable, fitted
from nonlocalnn.checkpoints.state import CheckpointError, State
from nonlocalnn.checkpoints.wrapped import unwrapped
from nonlocalnn.models import inflate_

STAYED = "the image network has nothing that fits these, which stay as they were: "
_STEM = "conv1.weight"


def is_of_images(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict under our names is of a network of images."""
    return _STEM in state and state[_STEM].dim() == 4


def images_for(model: nn.Module, state: State) -> State | None:
    """Return an image network's weights under the names of a video network; None of any other pair.

    The first layer decides: networks of images may have layers of clips further on.
    """
    model = unwrapped(model)
    own, given = model.state_dict(), fitted(model, state)
    is_pair = is_of_images(given) and _STEM in own and own[_STEM].dim() == 5
    return given if is_pair else None


def fill_(model: nn.Module, state: State, path: Path) -> list[str]:
    """Inflate what :func:`images_for` gave into the model; return what stays as it was, in sentences.

    Raises:
        CheckpointError: The weights are not of the model's twin, or the model is on the meta device.
    """
    model = unwrapped(model)
    if any(value.is_meta for value in model.state_dict().values()):
        raise CheckpointError(
            f"{path} is of an image network, which fills a part of the model: make the model in memory, not "
            "on the meta device"
        )
    check_types(model.state_dict(), state, str(path))
    check_writable(model, state)
    try:
        kept = inflate_(model, state)
    except ValueError as error:
        raise CheckpointError(f"{path} is no image network that fits the model: {error}") from None
    # Apart from blocks, which begin as the identity: other layers begin with random numbers.
    blocks = [name for name in kept if ".nl." in name]
    layers = [name for name in kept if ".nl." not in name]
    sentences = ((STAYED, layers), ("blocks are not in the image network, and stay as they were: ", blocks))
    return [begin + ", ".join(names) for begin, names in sentences if names]
