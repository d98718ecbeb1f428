"""Which positions of a padded map are real: given to a block, or derived from the sizes of each sample.

A mask is bool, (B, *sides), True where a position is real. This file takes it from the map that it is given
for, through sub-sampling and groups, to the keys that an engine sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from nonlocalnn.functional.geometry import Geometry
from nonlocalnn.functional.modes import is_transformed
from nonlocalnn.functional.scopes import Scope


@dataclass(frozen=True)
class _Real:
    """Sizes (B, sides) of the samples, on the CPU, of a canvas; ``is_full`` where nothing is padded.

    The canvas is a tensor (sides,) too: numbers would make torch.compile compile once for each. ``layers``
    is whether layers of our networks know it, and not the blocks alone.
    """

    sizes: Tensor
    canvas: Tensor
    is_full: bool
    layers: bool = True


KNOWN_SIZES: Scope[_Real] = Scope("real_positions")


@contextmanager
def real_positions(
    sizes: Tensor | Sequence[Sequence[int]], canvas: Sequence[int], *, layers: bool = True
) -> Iterator[None]:
    """Tell all non-local blocks that run in this context which part of each padded sample is real.

    Each block derives the mask of the map that it meets by proportion: of a side of n positions the first
    ceil(n * size / canvas) are real. Keys on padding weigh nothing, pooled keys count as
    :meth:`nonlocalnn.NonLocalNd.forward` says, and norms of blocks take their statistics over real positions.
    A ``key_mask`` that a block is given by itself is taken instead.

    The layers of :class:`nonlocalnn.models.ResidualNetwork` know of the context, too: convolutions and pools
    see nothing of the padding, norms take their statistics over real positions, and so does the mean before
    the last layer. A padded sequence or image then has the scores and gradients that it has alone, up to
    rounding, where each side of the canvas is a multiple of 32, by which the deepest of them shrink it; a
    video where its pools over time leave out no frame as well. Layers of other networks do not know of the
    context.

    It holds in the thread that opens it. Activation checkpoints that run a block again in the backward pass
    give it the sizes of its first run; a compiled block inside a checkpoint gets them only where the backward
    pass runs in the context too. Programs of ``torch.export`` and ``torch.jit.trace`` do not know of it.

    Args:
        sizes: Real size of each sample, (B, sides), whole numbers of the input's pixels, steps or voxels, in
            the order of the sides: (N,), (H, W) or (T, H, W).
        canvas: The sides of the padded batch, in the same units. Where positions are split over processes,
            sizes and canvas are those of the rank's own part, and a size may be 0.
        layers: Whether those layers know of it too; False leaves it to the blocks, for weights that were
            trained with layers that see zeros beside an image.

    Raises:
        ValueError: Sizes and canvas do not fit each other; or, when a block runs, it meets a map of another
            rank or of another number of samples, is given a context without a ``key_mask`` of its own, is
            exported or traced, is replicated by ``nn.DataParallel``, or runs again in a backward pass where
            the sizes of its first run cannot be told.

    Example:
        >>> from nonlocalnn import NonLocal2d
        >>> block = NonLocal2d(8, zero_init=False).eval()
        >>> small = torch.randn(1, 8, 5, 4)
        >>> padded = torch.nn.functional.pad(small, (0, 3, 0, 2))
        >>> with real_positions([(5, 4)], canvas=(7, 7)):
        ...     z = block(padded)[:, :, :5, :4]
        >>> bool(torch.allclose(z, block(small), atol=1e-5))
        True
    """
    with KNOWN_SIZES.hold(replace(_checked(sizes, canvas), layers=layers)):
        yield


def real_mask(x: Tensor) -> Tensor | None:
    r"""Return which positions of a layer's map are real, (B, \*sides), by :func:`real_positions`; None: all.

    Raises:
        ValueError: The map has another rank, or another number of samples, than the context was given.
    """
    real = KNOWN_SIZES.current()
    return None if real is None or not real.layers else _derived(real, x, None)


def _checked(sizes: Tensor | Sequence[Sequence[int]], canvas: Sequence[int]) -> _Real:
    sides = tuple(canvas) if isinstance(canvas, Iterable) else ()
    if not 1 <= len(sides) <= 3 or not all(_is_whole(side) and side >= 1 for side in sides):
        raise ValueError(f"canvas must be 1 to 3 whole numbers of at least 1; got {repr(canvas)[:80]}")
    try:
        table = torch.as_tensor(sizes).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"sizes must be whole numbers, (B, sides); got {repr(sizes)[:80]}") from None
    # An empty list is no samples: B may be 0.
    if table.shape == (0,) and not isinstance(sizes, Tensor):
        table = table.long().view(0, len(sides))
    if table.dtype.is_floating_point or table.dtype.is_complex or table.dtype == torch.bool:
        raise ValueError(f"sizes must be whole numbers, (B, sides); got {table.dtype}")
    table = table.long()
    if table.dim() != 2 or table.shape[1] != len(sides):
        raise ValueError(
            f"sizes must be (B, {len(sides)}), a size a sample for each side of canvas = {sides}; got shape "
            f"{tuple(table.shape)}"
        )
    whole = torch.tensor(sides)
    if bool(((table < 0) | (table > whole)).any()):
        found = repr(table.tolist())[:80]
        raise ValueError(f"every size must be from 0 to its side of canvas = {sides}; got {found}")
    return _Real(table, whole, bool((table == whole).all()))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def masks_of(
    x: Tensor, context: Tensor | None, key_mask: Tensor | None, ranks: dist.ProcessGroup | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return which positions of x are real, and which of the map that keys are read from; None is all.

    A ``key_mask`` is of the keys' map, which is x itself where there is no context. Without one the sizes of
    :func:`real_positions` are taken, where it is on.

    Raises:
        ValueError: A mask or the sizes do not fit the maps.
    """
    known = KNOWN_SIZES.current()
    if key_mask is None and known is None:
        return None, None
    source = x if context is None else context
    knows_keys = key_mask is not None
    if key_mask is not None:
        _check_mask(key_mask, source)
        # A mask that is all True must not change a bit. Over ranks it stays: the others may have padding.
        if ranks is None and masks_nothing(key_mask):
            key_mask = None
        if context is None:
            return key_mask, key_mask
    own = None if known is None else _derived(known, x, ranks)
    if context is None:
        return own, own
    if not knows_keys and known is not None and not known.is_full:
        raise ValueError(
            "real_positions knows the sizes of the network's input and not those of a block's context: give "
            "the block a key_mask of its context, all True where nothing is padded"
        )
    return own, key_mask


def masks_nothing(mask: Tensor) -> bool:
    """Return whether a mask is all True, where that can be told without waiting for a device."""
    # A traced program must not depend on the values of its example.
    is_known = type(mask) is Tensor and mask.device.type == "cpu"
    if not is_known or torch.compiler.is_compiling() or is_transformed():
        return False
    return bool(mask.all())


def _check_mask(key_mask: Tensor, source: Tensor) -> None:
    wanted = (source.shape[0], *source.shape[2:])
    if not isinstance(key_mask, Tensor) or key_mask.dtype != torch.bool or key_mask.shape != wanted:
        found = (
            f"{key_mask.dtype}, {tuple(key_mask.shape)}"
            if isinstance(key_mask, Tensor)
            else type(key_mask).__name__
        )
        raise ValueError(
            f"key_mask must be bool, (B, *sides) = {tuple(wanted)}, True where the keys' map is; got {found}"
        )
    if key_mask.device != source.device:
        raise ValueError(f"key_mask must be on the map's device, {source.device}; got {key_mask.device}")


def _derived(real: _Real, x: Tensor, ranks: dist.ProcessGroup | None) -> Tensor | None:
    """Return which positions of a map are real by the sizes that are known; None where all are."""
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        raise ValueError(
            "a program that is exported or traced inside real_positions would keep the sizes of its example: "
            "leave it (a detector opens it itself: export its backbone alone), and give the blocks a "
            "key_mask that is an input of the program"
        )
    batch, *sides = x.shape[0], *x.shape[2:]
    if len(sides) != real.sizes.shape[1]:
        raise ValueError(
            f"real_positions was given {real.sizes.shape[1]} sides, {tuple(real.canvas.tolist())}, and a "
            f"block's map has {len(sides)}: {tuple(sides)}"
        )
    if real.sizes.shape[0] != batch:
        raise ValueError(
            f"real_positions was given sizes of {real.sizes.shape[0]} samples, and a block meets {batch}: "
            "leave the context before parts of a network that work on other samples, such as regions"
        )
    if real.is_full and ranks is None:
        return None
    mask = torch.ones(batch, *sides, dtype=torch.bool, device=x.device)
    for axis, side in enumerate(sides):
        # Rounded up: a position that has seen anything real is real.
        count_B = -(-real.sizes[:, axis] * side // real.canvas[axis])
        is_real_BP = torch.arange(side, device=x.device) < count_B.to(x.device).unsqueeze(1)
        mask = mask & is_real_BP.view(batch, *[side if place == axis else 1 for place in range(len(sides))])
    return mask


def key_mask_of(
    places: Geometry, mask: Tensor | None, pools: bool, ranks: dist.ProcessGroup | None
) -> Tensor | None:
    """Return which keys take part, (B * groups, M), from the mask of the map that they are read from.

    Along one axis after another a pooled key is real if all positions of its window are; where that leaves a
    group no key, those with any real position are. So a sample that is padded at the end of its sides has the
    keys that it would have alone, cropped: there odd sides floor, and a side shorter than the window is
    pooled whole.

    Args:
        places: The map before pooling.
        mask: Shape (B, *sides), or None: all keys.
        pools: Whether keys are sub-sampled.
        ranks: The processes that hold other positions of the same groups.
    """
    if mask is None:
        return None
    grouped = places.group(mask.flatten(1))
    if not pools:
        return grouped
    grouped = grouped.unflatten(1, places.group_sides)
    for axis, size in enumerate(places.group_kernel, start=1):
        if size == 1:
            continue
        whole, partly = ~_any_of_windows(~grouped, axis, size), _any_of_windows(grouped, axis, size)
        has_key = whole.flatten(1).any(1)
        if ranks is not None:
            # A group may have all of its keys on another rank.
            number = has_key.to(torch.uint8)
            dist.all_reduce(number, op=dist.ReduceOp.MAX, group=ranks)
            has_key = number.bool()
        grouped = torch.where(has_key.view(-1, *[1] * (whole.dim() - 1)), whole, partly)
    return grouped.flatten(1)


def _any_of_windows(mask: Tensor, axis: int, size: int) -> Tensor:
    """Return whether any position of each window along an axis is True; a rest at its end is left out."""
    # Pooled, since views of windows make exported programs ask for sides that windows divide.
    num_sides = mask.dim() - 1
    kernel = [size if place == axis else 1 for place in range(1, num_sides + 1)]
    channel = mask.unsqueeze(1).float()
    # In two dimensions where it is one: PyTorch exports the pool of one with the sides of its example.
    if num_sides == 1:
        return F.max_pool2d(channel.unsqueeze(2), [1, *kernel]).squeeze(2).squeeze(1) > 0
    pool = F.max_pool2d if num_sides == 2 else F.max_pool3d
    return pool(channel, kernel).squeeze(1) > 0
