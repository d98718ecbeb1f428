"""How far attention is from even: the level of equal weights, what stands out of it, and when none does.

Pages and pictures show weights as multiples of the even level. Without it the largest of weights that are
nearly alike would be painted as brightly as a finding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

# A key stands out from this many times the even level on. Of 49 keys with random logits at an entropy of 0.98
# the largest weighs about twice the even level: five arrows to the largest would point at noise.
_STANDS_OUT = 3.0
# From this entropy on a block is said to attend evenly.
EVEN_ENTROPY = 0.97


def stands_out(num_keys: int) -> float:
    """Return from how many times the even level on a key stands out.

    Three times; of fewer than five keys, half-way from all alike to everything on one of them.

    Args:
        num_keys: How many keys each query sees, M: a weight is M times the even level at most.

    Example:
        >>> [stands_out(num_keys) for num_keys in (2, 4, 5, 49)]
        [1.5, 2.5, 3.0, 3.0]
    """
    # A single key is no choice, and never stands out.
    return min(_STANDS_OUT, (1 + num_keys) / 2) if num_keys > 1 else _STANDS_OUT


def even_level(rows: Tensor, num_keys: int) -> Tensor:
    """Return the size that the weights of each row would have if they were all alike, (...,).

    It is the mean size of a row's weights: 1 / M for the two Gaussian forms, whose rows sum to 1. Those of
    the dot product may be negative, and those of the concatenation form sum to anything.

    Args:
        rows: (..., keys).
        num_keys: How many keys each query sees, M: those of other groups weigh 0 and do not count.

    Example:
        >>> even_level(torch.tensor([[0.5, 0.25, 0.25, 0.0], [-6.0, 2.0, 0.0, 0.0]]), 4)
        tensor([0.2500, 2.0000])
    """
    return rows.abs().sum(-1) / num_keys


def entropy_of(rows: Tensor, num_keys: int) -> Tensor:
    """Return the entropy of each row's shares over that of even attention, (...,).

    0 is one key, 1 all keys alike; NaN where a row weighs nothing or sees a single key.

    Args:
        rows: (..., keys).
        num_keys: How many keys each query sees.

    Example:
        >>> entropy_of(torch.tensor([[1.0, 0.0], [-2.0, 2.0]]), 2)
        tensor([0., 1.])
    """
    sizes = rows.abs()
    most = math.log(num_keys) if num_keys > 1 else math.nan
    return torch.special.entr(sizes / sizes.sum(-1, keepdim=True)).sum(-1) / most


def attends_evenly(entropy: float | None) -> bool:
    """Return whether a block of this entropy looks at all keys nearly alike.

    Example:
        >>> attends_evenly(0.99), attends_evenly(0.9), attends_evenly(None)
        (True, False, False)
    """
    return entropy is not None and entropy >= EVEN_ENTROPY


def evenly_in_words(entropy: float | None, rows: int | None = None) -> str:
    """Return that attention is nearly even, in words; empty where it is not.

    Args:
        entropy: Of a block over all its queries, or the mean of some rows.
        rows: How many rows it is of; None is the whole block.

    Example:
        >>> evenly_in_words(0.99), evenly_in_words(0.9)
        ('attends nearly evenly (entropy 0.99 of 1)', '')
        >>> evenly_in_words(0.99, rows=1)
        'this row attends nearly evenly (entropy 0.99 of 1)'
    """
    if not attends_evenly(entropy):
        return ""
    # Rows that are drawn may be even in a block that is not: a title must say whose the entropy is.
    verb = "attends" if rows is None else "this row attends" if rows == 1 else "these rows attend"
    return f"{verb} nearly evenly (entropy {entropy:.2f} of 1)"


def says_most(entropies: Mapping[str, float | None]) -> str | None:
    """Return the block that attends least evenly, the first of several; None where there is no block.

    Args:
        entropies: Of each block; None where its queries see a single key.

    Example:
        >>> says_most({"a": 0.99, "b": 0.71, "c": None})
        'b'
    """
    return min(entropies, key=lambda name: _or_more(entropies[name]), default=None)


def _or_more(entropy: float | None) -> float:
    return math.inf if entropy is None else entropy
