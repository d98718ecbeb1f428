"""Blocks whose positions are split over processes: the context they run in, and what fits it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch.distributed as dist

from nonlocalnn._errors import check_choice
from nonlocalnn.functional.geometry import Geometry
from nonlocalnn.functional.scopes import Scope

Dim = Literal["N", "T", "H", "W"]
_DIMS: dict[int, tuple[str, ...]] = {1: ("N",), 2: ("H", "W"), 3: ("T", "H", "W")}


@dataclass(frozen=True)
class _Split:
    group: dist.ProcessGroup
    dim: str


class _EndedSplit:
    """A split after its context, which keeps no process group alive.

    One that outlives ``destroy_process_group`` lets gloo's threads run until the interpreter ends, and some
    processes abort then.
    """

    def __init__(self, split: _Split | _EndedSplit) -> None:
        self.dim: str = split.dim
        self._group = weakref.ref(split.group)

    @property
    def group(self) -> dist.ProcessGroup:
        found = self._group()
        if found is None:
            raise ValueError(
                "a backward pass runs a block of split_positions again, whose process group is destroyed: "
                "destroy it after the backward pass"
            )
        return found


KNOWN_SPLIT: Scope[_Split | _EndedSplit] = Scope("split_positions", ended=_EndedSplit)


@contextmanager
def split_positions(group: dist.ProcessGroup | None = None, *, dim: Dim = "T") -> Iterator[None]:
    """Let each process of a group hold a part of every map, and non-local blocks see all of it.

    Each rank gives the model its own frames (or rows, or columns): consecutive ones, in rank order, of any
    number. Blocks exchange what eq. (1) needs, forward and backward; 1x1 convolutions need no neighbour. All
    other layers see the rank's own part alone, so a network gives what it would give on one process where
    these look at one frame at a time: C2D without pooling over time, and its last mean, which the caller
    takes over the ranks. Batch normalisation in train mode has each rank's own statistics.

    It holds in the thread that opens it, and for blocks that activation checkpoints run again in the backward
    pass, as :func:`nonlocalnn.real_positions` does.

    A backward pass leaves each rank with its part's share of the gradients of parameters: their sum over the
    group is the gradient.

    Args:
        group: The processes; None is all of them. They must run the same blocks in the same order.
        dim: The axis that is split: "T", "H" or "W" of videos, "H" or "W" of images, "N" of sequences.

    Raises:
        ValueError: ``dim`` is unknown; or, when a block runs, it has no such axis, its ``extent`` is a number
            of frames and time is split, or pooling would reach over the border between two ranks.

    Source:
        The forms of :func:`nonlocalnn.functional.non_local` with a process group; see DESIGN.md.

    Example:
        >>> import tempfile, torch
        >>> store = f"file://{tempfile.mkdtemp()}/store"
        >>> dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        >>> from nonlocalnn import NonLocal3d
        >>> with split_positions(dim="T"):
        ...     z = NonLocal3d(8)(torch.randn(1, 8, 4, 6, 6))
        >>> dist.destroy_process_group()
    """
    check_choice("dim", dim, ("N", "T", "H", "W"))
    chosen = dist.group.WORLD if group is None else group
    if chosen is None:
        raise ValueError("there is no process group: call torch.distributed.init_process_group first")
    with KNOWN_SPLIT.hold(_Split(chosen, dim)):
        yield


def group_of(places: Geometry, sub_sample: str | None) -> dist.ProcessGroup | None:
    """Return the processes among which a block has to exchange the keys of a map, or None for no others.

    Raises:
        ValueError: The split does not fit the map or the block; see :func:`split_positions`.
    """
    split, extent = KNOWN_SPLIT.current(), places.extent
    if split is None:
        return None
    dims = _DIMS[len(places.sides)]
    if split.dim not in dims:
        raise ValueError(
            f"positions are split along {split.dim!r}, and this block's maps have {', '.join(dims)} only"
        )
    if isinstance(extent, int) and split.dim == "T":
        raise ValueError(
            f"a block with extent={extent} groups frames, which are split over ranks: split H or W, or give "
            "the block another extent"
        )
    if sub_sample is not None:
        _check_pooling(split, places, dims.index(split.dim))
    # Each rank has whole groups: what does not see each other need not be exchanged.
    if (extent == "space" and split.dim == "T") or (extent == "time" and split.dim != "T"):
        return None
    return split.group


def _check_pooling(split: _Split | _EndedSplit, places: Geometry, axis: int) -> None:
    side = places.sides[axis]
    # A rank's own side may be shorter than the window, and would be pooled whole; in the whole map it is not.
    window = places.window[axis]
    if window == 1:
        return
    is_last = split.group.rank() == split.group.size() - 1
    if side < window or (side % window and not is_last):
        raise ValueError(
            f"keys are pooled by {window} along {split.dim!r}, of which this rank holds {side}: every rank "
            f"must hold a multiple of {window}, the last one at least {window}; or use sub_sample=None"
        )
