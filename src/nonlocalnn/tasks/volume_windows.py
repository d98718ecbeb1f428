"""The scores of a volume's voxels by windows that overlap, slab after slab: a volume may exceed memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
from torch import Tensor, nn

from nonlocalnn._device import Precision
from nonlocalnn._errors import check_whole
from nonlocalnn.tasks.masks import scores_of, window_starts
from nonlocalnn.tasks.probabilities import check_finite

# At its edges a window has seen little around a voxel: a Gaussian weighs what is found there less. In shares
# of the window's side, and the least that a voxel weighs, since corners are seen by one window alone.
_DEVIATION, _LEAST = 1 / 8, 1e-3


class Boxes(Protocol):
    """What is read box by box, as a network takes it."""

    @property
    def sides(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        ...

    def box(self, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """Return the voxels from ``start`` up to ``stop``, (C, D, H, W)."""
        ...

    def on_file(self, labels: Tensor) -> Tensor:
        """Return the labels of these voxels as those of the file's."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """A volume that is in memory already, as a network takes it.

    Args:
        sample: (C, slices, rows, columns).
    """

    sample: Tensor

    @property
    def sides(self) -> tuple[int, int, int]:
        """See :class:`Boxes`."""
        slices, rows, columns = self.sample.shape[1:]
        return slices, rows, columns

    def box(self, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """See :class:`Boxes`."""
        slices, rows, columns = (slice(low, high) for low, high in zip(start, stop, strict=True))
        return self.sample[:, slices, rows, columns]

    def on_file(self, labels: Tensor) -> Tensor:
        """Return the labels: there is no file."""
        return labels


def score_slabs(
    model: nn.Module,
    sampled: Boxes,
    *,
    window: int,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Iterator[tuple[int, Tensor]]:
    """Yield the scores of a volume, slab after slab: number of the first slice, (K, slices, rows, columns).

    Windows overlap by half. Where they do, scores are averaged, weighed by a Gaussian about each window's
    middle, with a standard deviation of an eighth of its side.

    Args:
        model: In eval mode; takes (1, C, D, H, W) and returns scores of each voxel.
        sampled: The volume, as the network takes it; what a window sees is read when it is looked at.
        window: Side of the windows, in voxels; along an axis that is shorter it is that.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: The window is no size, the network does not return scores for each voxel, or a voxel is no
            finite number.

    Memory: scores of ``window`` slices, K x window x rows x columns numbers.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from nonlocalnn.data.volumes.reading import Reading, Sampled
        >>> from nonlocalnn.data.volumes.volume import Volume
        >>> volume = Volume(np.ones((1, 5, 6, 7)), np.eye(4), Path("a.npy"))
        >>> slabs = score_slabs(nn.Conv3d(1, 2, 1), Sampled(volume, Reading()), window=4)
        >>> [(first, tuple(scores.shape)) for first, scores in slabs]
        [(0, (2, 1, 6, 7)), (1, (2, 4, 6, 7))]
    """
    check_whole("window", window)
    _, rows, columns = sampled.sides
    sizes = [min(window, side) for side in sampled.sides]
    weight = _weight(sizes).to(device)
    starts = [
        window_starts(side, size, overlap=1 / 2) for side, size in zip(sampled.sides, sizes, strict=True)
    ]
    total, counts = None, torch.zeros(sizes[0], rows, columns, device=device)
    for number, first in enumerate(starts[0]):
        for top, left in product(starts[1], starts[2]):
            begin = (first, top, left)
            end = [low + size for low, size in zip(begin, sizes, strict=True)]
            box = sampled.box(begin, end).unsqueeze(0).to(device)
            with torch.no_grad():
                scores = scores_of(model, box, precision)[0]
            if total is None:
                total = scores.new_zeros(len(scores), *counts.shape)
            place = (..., slice(top, end[1]), slice(left, end[2]))
            total[place] += scores * weight
            counts[place] += weight
        assert total is not None, "a volume has at least one window"
        is_last = number == len(starts[0]) - 1
        done = sizes[0] if is_last else starts[0][number + 1] - first
        yield first, total[:, :done] / counts[:done]
        # Slices that the next windows see stay, and begin the next slab.
        total = torch.cat([total[:, done:], torch.zeros_like(total[:, :done])], 1)
        counts = torch.cat([counts[done:], torch.zeros_like(counts[:done])])


def volume_labels(
    model: nn.Module,
    sampled: Boxes,
    *,
    window: int,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Tensor:
    """Return the class of each voxel of a volume's file, uint8 (slices, rows, columns), on the CPU.

    Args:
        model: See :func:`score_slabs`, and so the others.
        sampled: The volume. Where it is resampled, a voxel of the file has the class of the nearest one.
        window: Side of the windows.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: As for :func:`score_slabs`, or a score is not finite.

    Memory: a byte a voxel, and what :func:`score_slabs` takes.
    """
    labels = torch.empty(sampled.sides, dtype=torch.uint8)
    for first, scores in score_slabs(model, sampled, window=window, device=device, precision=precision):
        labels[first : first + scores.shape[1]] = best_of(scores)
    return sampled.on_file(labels)


def best_of(scores: Tensor) -> Tensor:
    """Return the class with the highest score of each voxel, uint8, on the CPU.

    Raises:
        ValueError: A score is not finite.
    """
    check_finite(scores)
    return scores.argmax(0).to(torch.uint8).cpu()


def _weight(sizes: list[int]) -> Tensor:
    """Return how much each voxel of a window weighs, (D, H, W)."""
    along = []
    for size in sizes:
        away = (torch.arange(size) + 0.5) / size - 0.5
        along.append(torch.exp(-0.5 * (away / _DEVIATION).square()))
    slices, rows, columns = along
    return (slices[:, None, None] * rows[:, None] * columns).clamp(min=_LEAST)
