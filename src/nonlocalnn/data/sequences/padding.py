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


# Shorter ones happen in any signal.
_LEAST_STEPS, _LEAST_SHARE = 8, 0.05


def moves_between(batch: Tensor, lengths: Tensor | None = None) -> Tensor:
    r"""Return where sequences are no padding of their files: False where an end only repeats one value.

    Files of equally long sequences often were made so by repeating a value, such as 0, before or after what
    was measured. An end of at least 8 steps, and of a twentieth of the sequence, that repeats its value in
    all channels looks like that; so does a signal at rest. A sequence that never changes is left as it is.

    Args:
        batch: (B, C, L).
        lengths: How long each is, (B, 1); None is L.

    Returns:
        bool (B, L); True after the lengths.

    Example:
        >>> wave = torch.cat([torch.zeros(1, 1, 10), torch.arange(5.0).view(1, 1, 5), torch.ones(1, 1, 3)], 2)
        >>> moves_between(wave)[0].long().tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    """
    found = torch.ones(batch.shape[0], batch.shape[2], dtype=torch.bool)
    for row, sample in enumerate(batch.cpu()):
        length = batch.shape[2] if lengths is None else int(lengths[row])
        moves = (sample[:, 1:length] != sample[:, : length - 1]).any(0).nonzero().flatten().tolist()
        least = max(_LEAST_STEPS, _LEAST_SHARE * length)
        # The first and the last change: what lies before, and behind, is of one value.
        if moves and moves[0] + 1 >= least:
            found[row, : moves[0] + 1] = False
        if moves and length - 1 - moves[-1] >= least:
            found[row, moves[-1] + 1 : length] = False
    return found.to(batch.device)
