"""Which sizes a network takes besides those of an example."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

SIDES = {1: ("length",), 2: ("height", "width"), 3: ("time", "height", "width")}
# Sizes to try on a side, as parts of the example's; the last side has its own, so that none are mixed up.
_LARGER, _SMALLER = (1.5, 1.25, 2.0), (0.75, 0.5, 0.875)
_LAST_LARGER, _LAST_SMALLER = (1.25, 1.5, 2.0), (0.875, 0.75, 0.5)


def dimension_names(num_dimensions: int) -> tuple[str, ...]:
    """Return what the dimensions of an input are called."""
    return ("batch", "channels", *SIDES[num_dimensions - 2])


def other_shapes(model: nn.Module, example: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a larger shape and a smaller one, of a single sample.

    A side is that of the example unless the model takes a larger and a smaller one.
    """
    shape = tuple(example.shape)

    def first(axis: int, factors: Iterable[float]) -> int | None:
        """Return the first size that the model takes on a side."""
        for size in (int(shape[axis] * factor) for factor in factors):
            if size not in (0, shape[axis]):
                try:
                    _run_without_numbers(model, (*shape[:axis], size, *shape[axis + 1 :]), example)
                except (RuntimeError, ValueError):
                    continue
                return size
        return None

    larger, smaller = [shape[0] + 1, shape[1]], [1, shape[1]]
    for axis in range(2, len(shape)):
        is_last = axis == len(shape) - 1
        more = first(axis, _LAST_LARGER if is_last else _LARGER)
        less = first(axis, _LAST_SMALLER if is_last else _SMALLER)
        both = (shape[axis], shape[axis]) if more is None or less is None else (more, less)
        larger.append(both[0])
        smaller.append(both[1])
    return tuple(larger), tuple(smaller)


def _run_without_numbers(model: nn.Module, shape: tuple[int, ...], like: Tensor) -> None:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.empty(shape, dtype=like.dtype, device=like.device))
