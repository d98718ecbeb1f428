"""Where the positions of a map lie in the input: traced through the strides and pools before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Sides = tuple[int, ...]


@dataclass(frozen=True)
class PositionGrid:
    """The positions of a map, and where each lies in the input.

    Position i along an axis has its centre at ``centres[axis] + i * steps[axis]``, in input pixels (frames
    along time), where pixel p is what lies between p and p + 1. Its box is what is nearer to it than to its
    neighbours, up to the input's edge; see :meth:`reach`. What a position has seen is wider than its box:
    kernels overlap.

    Args:
        sides: Positions along each axis: (N,), (H, W) or (T, H, W).
        input_sides: Sides of the input.
        steps: Distance from one position to the next, in input pixels or frames.
        centres: The centre of the first position.

    Example:
        >>> grid = PositionGrid((7, 7), (28, 28), steps=(4.0, 4.0), centres=(2.0, 2.0))
        >>> grid.box(0, 3), grid.position(27, 13)
        (((0.0, 4.0), (12.0, 16.0)), (6, 3))
    """

    sides: Sides
    input_sides: Sides
    steps: tuple[float, ...]
    centres: tuple[float, ...]

    def centre(self, *position: int) -> tuple[float, ...]:
        """Return the centre of a position in the input.

        Raises:
            ValueError: The position does not exist.
        """
        place = check_position(position, self.sides)
        return tuple(
            first + index * step for index, first, step in zip(place, self.centres, self.steps, strict=True)
        )

    def box(self, *position: int) -> tuple[tuple[float, float], ...]:
        """Return (from, to) along each axis of the input, the part of it that is this position's.

        Raises:
            ValueError: The position does not exist.
        """
        place = check_position(position, self.sides)
        boxes = []
        for axis, (index, centre, step) in enumerate(
            zip(place, self.centre(*place), self.steps, strict=True)
        ):
            low, high = self.reach(axis)
            # Not the receptive field: those overlap, and after a first block each is the whole input.
            start = low if index == 0 else max(low, centre - step / 2)
            end = high if index == self.sides[axis] - 1 else min(high, centre + step / 2)
            boxes.append((start, end))
        return tuple(boxes)

    def reach(self, axis: int) -> tuple[float, float]:
        """Return from where to where the boxes of all positions go along an axis of the input.

        Mostly it is the whole input. Where a pool left out what it had no window for, the end is nobody's.

        Example:
            >>> PositionGrid((4,), (64,), steps=(16.0,), centres=(0.5,)).reach(0)
            (0.0, 64.0)
            >>> PositionGrid((3,), (7,), steps=(2.0,), centres=(1.0,)).reach(0)
            (0.0, 6.0)
        """
        step, side = self.steps[axis], float(self.input_sides[axis])
        low = self.centres[axis] - step / 2
        high = low + self.sides[axis] * step
        # Windows centred on their first pixel leave less than half a step at the end, nearest to the last
        # position; a window that a pool left out is half a step at least.
        return 0.0 if low < step / 2 else low, side if side - high < step / 2 else high

    def pixel(self, *position: int) -> Sides:
        """Return the pixel (of a frame) of the input in which a position has its centre.

        Raises:
            ValueError: The position does not exist.
        """
        return tuple(
            min(max(math.floor(centre), 0), side - 1)
            for centre, side in zip(self.centre(*position), self.input_sides, strict=True)
        )

    def reaches(self, *pixel: int) -> bool:
        """Return whether a pixel (of a frame) lies among the positions, or less than one beside them.

        Outside are pixels beyond a detector's region, of which the nearest position says nothing.

        Example:
            >>> grid = PositionGrid((4, 4), (64, 64), steps=(2.0, 2.0), centres=(21.0, 21.0))
            >>> grid.reaches(27, 20), grid.reaches(40, 20)
            (True, False)
        """
        return all(
            first - 1.5 * step <= index + 0.5 <= first + (side + 0.5) * step
            for index, first, step, side in zip(pixel, self.centres, self.steps, self.sides, strict=True)
        )

    def position(self, *pixel: int) -> Sides:
        """Return the position nearest to a pixel (of a frame) of the input.

        Raises:
            ValueError: The pixel is outside the input.
        """
        inside = check_position(pixel, self.input_sides, what="pixel")
        return tuple(
            # Half-way between two positions is the box of the second, which begins there.
            min(max(math.floor((index + 0.5 - first) / step + 0.5), 0), side - 1)
            for index, first, step, side in zip(inside, self.centres, self.steps, self.sides, strict=True)
        )

    def axis_centres(self) -> tuple[Tensor, ...]:
        """Return the centres of the positions along each axis, float32, in input pixels or frames."""
        return tuple(
            first + step * torch.arange(side)
            for first, step, side in zip(self.centres, self.steps, self.sides, strict=True)
        )

    def pooled(self, sides: Sides, window: Sequence[int] | None = None) -> PositionGrid:
        """Return the grid after max-pooling.

        Args:
            sides: Those of the pooled map.
            window: How many positions become one along each axis; None is 2 where ``sides`` differ.
        """
        if window is None:
            window = [1 if after == before else 2 for after, before in zip(sides, self.sides, strict=True)]
        return PositionGrid(
            sides,
            self.input_sides,
            steps=tuple(size * step for step, size in zip(self.steps, window, strict=True)),
            centres=tuple(
                first + step * (size - 1) / 2
                for first, step, size in zip(self.centres, self.steps, window, strict=True)
            ),
        )


def check_position(position: Sequence[int], sides: Sides, *, what: str = "query") -> Sides:
    """Return a place in a map with these sides, counted from the beginning.

    Raises:
        ValueError: It does not exist.
    """
    inside = len(position) == len(sides) and all(
        hasattr(place, "__index__") and -side <= place < side
        for place, side in zip(position, sides, strict=True)
    )
    if not inside:
        raise ValueError(f"{what} must be a place in {sides}; got {tuple(position)}")
    return tuple(int(place) % side for place, side in zip(position, sides, strict=True))


class GridTracer:
    """Follows, while a model runs, where the positions of its maps lie in its input.

    Each layer that changes the sides of a map moves and widens the positions; lengths that no layer gave
    (a function instead of a layer made them) are taken to divide the input evenly.
    """

    def __init__(self) -> None:
        self.input: Tensor | None = None
        self._input_sides: Sides = ()
        # For each axis, counted from the last: (step, centre of the first) of maps that are so long.
        self._known: list[dict[int, tuple[float, float]]] = []

    # Hooks on layers work in any network, without a graph of it.
    @contextmanager
    def follow(self, model: nn.Module, *, without: Iterable[nn.Module] = ()) -> Iterator[None]:
        """Trace runs of ``model`` while the context lasts, but not what lies in the modules ``without``."""
        handles = [model.register_forward_pre_hook(self._start, with_kwargs=True)]
        inside = {id(part) for module in without for part in module.modules()}
        for module in model.modules():
            if id(module) in inside:
                continue
            if isinstance(module, _ConvNd) or not any(True for _ in module.children()):
                handles.append(module.register_forward_hook(self._pass))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def grid(self, sides: Sides) -> PositionGrid:
        """Return where the positions of a map with these sides lie in the input of the present run."""
        if len(self._input_sides) != len(sides):
            self._begin(sides)
        placed = [self._placed(len(sides) - axis, side) for axis, side in enumerate(sides)]
        return PositionGrid(
            sides,
            self._input_sides,
            steps=tuple(step for step, _ in placed),
            centres=tuple(first for _, first in placed),
        )

    def _start(self, _model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.input, self._input_sides, self._known = None, (), []
        for value in (*inputs, *named.values()):
            if isinstance(value, Tensor) and value.dim() >= 3:
                # A copy: layers that work in place would change what is shown.
                self.input = None if value.is_meta else value.detach().cpu().clone()
                self._begin(tuple(value.shape[2:]))
                return

    def _begin(self, sides: Sides) -> None:
        self._input_sides = sides
        self._known = [{side: (1.0, 0.5)} for side in reversed(sides)]

    def _pass(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        x = inputs[0] if inputs else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)) or x.dim() != output.dim():
            return
        before, after = tuple(x.shape[2:]), tuple(output.shape[2:])
        if not before:
            return
        # A model that takes lists of images, or one whose part alone is run: the first layer's input is it.
        if not self._input_sides:
            self._begin(before)
        if len(before) > len(self._input_sides):
            return
        for axis, (old, new) in enumerate(zip(before, after, strict=True)):
            if 0 in (old, new):
                return
            from_last = len(before) - axis
            step, first = self._placed(from_last, old)
            window = _window(layer, axis, len(before), old, new)
            if window is None:
                ratio = old / new
                moved = step * ratio, first - step / 2 + step * ratio / 2
            else:
                stride, shift = window
                moved = step * stride, first + step * shift
            self._known[from_last - 1][new] = moved

    def _placed(self, from_last: int, side: int) -> tuple[float, float]:
        found = self._known[from_last - 1].get(side)
        if found is not None:
            return found
        step = self._input_sides[-from_last] / side
        return step, step / 2


def _window(layer: nn.Module, axis: int, num_axes: int, old: int, new: int) -> tuple[int, float] | None:
    """Return a layer's stride, and how far its first window's centre is from the first position.

    None for a layer that has no window, such as an adaptive pool or one that makes maps larger.
    """
    settings = [getattr(layer, name, None) for name in ("kernel_size", "stride", "dilation")]
    if isinstance(layer, _ConvTransposeNd) or settings[0] is None or settings[1] is None:
        return (1, 0.0) if old == new else None
    kernel, stride, dilation = (_of_axis(1 if value is None else value, axis, num_axes) for value in settings)
    padding = _of_axis(getattr(layer, "padding", 0), axis, num_axes)
    if kernel is None or stride is None or dilation is None:
        return None
    reach = dilation * (kernel - 1)
    # Layers that pad in a way of their own ("same") say nothing of use: their output's length does.
    told = padding is not None and (
        getattr(layer, "ceil_mode", False) or (old + 2 * padding - reach - 1) // stride + 1 == new
    )
    left = padding if told else max(0, (new - 1) * stride + reach + 1 - old) // 2
    assert left is not None
    return stride, reach / 2 - left


def _of_axis(value: object, axis: int, num_axes: int) -> int | None:
    """Return a layer's setting along one axis: settings are one number, or one for each axis."""
    if isinstance(value, int):
        return value
    if isinstance(value, tuple | list) and len(value) == num_axes and isinstance(value[axis], int):
        return value[axis]
    return None
