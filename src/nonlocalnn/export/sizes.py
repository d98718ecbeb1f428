"""Which sizes a network takes besides those of an example."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nonlocalnn._errors import silent

SIDES = {1: ("length",), 2: ("height", "width"), 3: ("time", "height", "width")}
# Sizes to try on a side, as parts of the example's; the last side has its own, so that none are mixed up.
_LARGER, _SMALLER = (1.5, 1.25, 2.0), (0.75, 0.5, 0.875)
_LAST_LARGER, _LAST_SMALLER = (1.25, 1.5, 2.0), (0.875, 0.75, 0.5)


def dimension_names(num_dimensions: int) -> tuple[str, ...]:
    """Return what the dimensions of an input are called."""
    return ("batch", "channels", *SIDES[num_dimensions - 2])


def other_shapes(model: nn.Module, example: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a larger shape and a smaller one, of a single sample.

    Batch and sides are those of the example unless the model takes a larger and a smaller one.
    """
    shape = tuple(example.shape)

    def first(axis: int, sizes: Iterable[int]) -> int | None:
        """Return the first size that the model takes along an axis."""
        for size in sizes:
            try:
                _run_without_numbers(model, (*shape[:axis], size, *shape[axis + 1 :]), example)
            except Exception:  # some assert, and what else a model raises is its own affair
                continue
            return size
        return None

    larger, smaller = list(shape), list(shape)
    for axis in (0, *range(2, len(shape))):
        factors = (_LAST_LARGER, _LAST_SMALLER) if axis == len(shape) - 1 else (_LARGER, _SMALLER)
        sizes = [[int(shape[axis] * factor) for factor in each] for each in factors]
        tried = [[size for size in each if size not in (0, shape[axis])] for each in sizes]
        more, less = (first(axis, each) for each in (tried if axis > 0 else [[shape[0] + 1], [1]]))
        if more is not None and less is not None:
            larger[axis], smaller[axis] = more, less
    return tuple(larger), tuple(smaller)


def _run_without_numbers(model: nn.Module, shape: tuple[int, ...], like: Tensor) -> None:
    # PyTorch logs a size that does not fit, with a traceback, and that is only an answer here.
    quiet = silent("torch._subclasses.fake_tensor")
    with quiet, torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.empty(shape, dtype=like.dtype, device=like.device))
