"""Sequences of different lengths in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Every network by name makes a side at most this many times shorter. At its multiples the proportion by which
# maps are told which of their positions are real is exact, see nonlocalnn.real_positions.
MULTIPLE = 32


def pad_batch(samples: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    r"""Return sequences as one batch, zeros after the end of the shorter ones, and how long each is.

    Args:
        samples: (\*any, L) each, alike but for L.

    Returns:
        (B, \*any, L'), and the lengths as :func:`nonlocalnn.real_positions` takes sizes, (B, 1), int64. L' is
        the longest, rounded up to a multiple of 32. Where all are equally long, L' is L and there are none.

    Example:
        >>> batch, lengths = pad_batch([torch.ones(2, 7), torch.ones(2, 5)])
        >>> batch.shape, lengths.tolist(), float(batch.sum())
        (torch.Size([2, 2, 32]), [[7], [5]], 24.0)
        >>> pad_batch([torch.ones(2, 7), torch.ones(2, 7)])[1] is None
        True
    """
    lengths = [sample.shape[-1] for sample in samples]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(list(samples)), None
    canvas = -(-longest // MULTIPLE) * MULTIPLE
    batch = samples[0].new_zeros(len(samples), *samples[0].shape[:-1], canvas)
    for row, sample in zip(batch, samples, strict=True):
        row[..., : sample.shape[-1]] = sample
    return batch, torch.tensor(lengths).unsqueeze(1)
