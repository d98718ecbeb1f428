"""Samples that cannot be read: counted, warned of, and left out up to a limit."""

import warnings

import torch

# The target of a sample that cannot be read: the default ``ignore_index`` of PyTorch's cross_entropy.
UNREADABLE = -100


class LeftOut:
    """The samples of a data set that could not be read so far, by any process of a ``DataLoader``.

    Args:
        num_samples: Samples of the data set.
        max_broken: How many may be left out.
        kind: What they are called: "videos" or "images".

    Raises:
        ValueError: ``max_broken`` is negative.

    Example:
        >>> left_out = LeftOut(10, max_broken=0, kind="images")
        >>> print(left_out.add(3, ValueError("cannot read image 3.png: it is cut")))
        cannot read image 3.png: it is cut (1 of 10 images could not be read so far, and max_broken is 0: ...)
    """

    def __init__(self, num_samples: int, *, max_broken: int, kind: str) -> None:
        if max_broken < 0:
            raise ValueError(f"max_broken must be at least 0; got {max_broken}")
        self._max_broken = max_broken
        self._kind = kind
        # In memory that the worker processes share. Marks are set and never removed, which needs no lock.
        self._is_broken = torch.zeros(num_samples, dtype=torch.bool).share_memory_()

    @property
    def indices(self) -> list[int]:
        """The samples that could not be read so far."""
        return self._is_broken.nonzero().flatten().tolist()

    def _too_many(self) -> bool:
        # At least one readable sample must remain, to stand in for the others.
        return int(self._is_broken.sum()) > min(self._max_broken, len(self._is_broken) - 1)

    def holds(self, index: int) -> bool:
        """Return whether a sample is known to be broken, so that it need not be read again.

        It is read again once too many are broken: that raises the error.
        """
        return bool(self._is_broken[index]) and not self._too_many()

    def add(self, index: int, error: Exception) -> str | None:
        """Count a broken sample and warn of it; if there are too many, return the text of an error."""
        self._is_broken[index] = True
        if self._too_many():
            return (
                f"{error} ({len(self.indices)} of {len(self._is_broken)} {self._kind} could not be read so "
                f"far, and max_broken is {self._max_broken}: mend them or take them away; nonlocalnn data "
                "check finds them all)"
            )
        warnings.warn(f"left out: {error}", UserWarning, stacklevel=5)
        return None
