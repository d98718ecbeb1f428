"""Which samples make which batch, and which random numbers they see.

Every draw is a pure function of the seed and of a position in the run. No generator's state is carried from
one step to the next, so a run can start again at any step, with any number of reading processes, and go on
exactly as if it had never stopped.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from nonlocalnn.tasks.contract import Samples


def mix(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order.

    Sums such as ``seed + epoch`` would give epoch 1 of seed 0 the numbers of epoch 0 of seed 1; a hash keeps
    neighbouring positions apart.

    Example:
        >>> mix(0, "order", 1) == mix(0, "order", 1), mix(0, "order", 1) == mix(1, "order", 0)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(length: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits ``length`` samples: each once.

    Example:
        >>> sorted(epoch_order(5, seed=0, epoch=3))
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(mix(seed, "order", epoch))
    return torch.randperm(length, generator=generator).tolist()


def grouped(order: Sequence[int], groups: Sequence[int], batch_size: int) -> list[int]:
    """Return an order whose batches are of one group each, as far as a group fills them.

    Of images in wide and tall formats, which a batch pads to one size, less is padding then. What is left of
    each group makes the last batches.

    Args:
        order: The order of :func:`epoch_order`, which alone decides the result.
        groups: The group of each sample.
        batch_size: Samples of an optimiser step.

    Example:
        >>> grouped([3, 0, 2, 1, 4], groups=[0, 0, 1, 1, 1], batch_size=2)
        [3, 2, 0, 1, 4]
    """
    waiting: dict[int, list[int]] = {}
    full: list[int] = []
    for index in order:
        batch = waiting.setdefault(groups[index], [])
        batch.append(index)
        if len(batch) == batch_size:
            full += waiting.pop(groups[index])
    return full + [index for number in sorted(waiting) for index in waiting[number]]


# Batches among whose samples the lengths are sorted: more make less padding, and batches less random.
_POOL = 8


def by_length(order: Sequence[int], lengths: Sequence[int], batch_size: int, *, seed: int) -> list[int]:
    """Return an order whose batches are of samples of similar lengths, so that less of them is padding.

    Of every eight whole batches of the order the samples are sorted by their lengths and divided anew; then
    the batches are shuffled, so that short and long ones take turns. What is left over stays at the end: it
    is as random as before.

    Args:
        order: The order of :func:`epoch_order`.
        lengths: The length of each sample.
        batch_size: Samples of an optimiser step.
        seed: Decides the order of the batches; of :func:`mix`, which makes it the epoch's own.

    Example:
        >>> lengths = [9, 1, 8, 2, 7]
        >>> found = by_length([0, 1, 2, 3, 4], lengths, batch_size=2, seed=0)
        >>> sorted(found[:2]), sorted(found[2:4]), found[4:]
        ([1, 3], [0, 2], [4])
    """
    whole = len(order) // batch_size * batch_size
    batches = []
    for start in range(0, whole, _POOL * batch_size):
        pool = sorted(order[start : min(start + _POOL * batch_size, whole)], key=lambda each: lengths[each])
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    generator = torch.Generator().manual_seed(seed)
    turns = torch.randperm(len(batches), generator=generator).tolist()
    return [index for turn in turns for index in batches[turn]] + list(order[whole:])


def steps_per_epoch(length: int, batch_size: int) -> int:
    """Return the number of whole batches in ``length`` samples; the rest of the order is left out.

    Raises:
        ValueError: There is not even one batch.
    """
    if length < batch_size:
        raise ValueError(
            f"the training data has {length} samples, fewer than one batch of {batch_size}: "
            "choose a smaller batch_size"
        )
    # Whole batches only, so that every step weighs the same. The order changes each epoch: no sample is left
    # out for good.
    return length // batch_size


class MicroBatches(Sampler[list[int]]):
    """The parts of one epoch's batches that one rank computes, in order.

    A batch is cut into ``accumulate * world_size`` equal parts; part m * world_size + r is rank r's m-th. So
    the batch itself depends neither on the number of ranks nor on the accumulation.

    Args:
        order: The epoch's sample indices.
        batch_size: Samples in one optimiser step, over all ranks.
        accumulate: Parts of a rank's share.
        rank: Whose parts.
        world_size: Number of ranks.
        start_step: Batches to skip, already trained on.

    Raises:
        ValueError: ``batch_size`` is not divisible by ``accumulate * world_size``.

    Example:
        >>> list(MicroBatches([4, 2, 0, 1, 3, 5, 6], batch_size=4, accumulate=2, rank=0, world_size=1))
        [[4, 2], [0, 1]]
    """

    def __init__(
        self,
        order: list[int],
        *,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> None:
        if batch_size % (accumulate * world_size):
            raise ValueError(
                f"batch_size must be divisible by accumulate times the number of ranks; "
                f"got {batch_size}, {accumulate} and {world_size}"
            )
        self.order = order
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step

    def __len__(self) -> int:
        return max(0, len(self.order) // self.batch_size - self.start_step) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size // (self.accumulate * self.world_size)
        for step in range(self.start_step, len(self.order) // self.batch_size):
            for part in range(self.accumulate):
                start = step * self.batch_size + (part * self.world_size + self.rank) * size
                yield self.order[start : start + size]


class SeededSamples(Dataset[tuple[Any, int]]):
    """A data set in one epoch: sample i is read with torch's generator seeded by (seed, epoch, i).

    Each item is ``(sample, i)``. Augmentation must draw from torch's global CPU generator only.

    Args:
        samples: The data set.
        seed: The run's seed.
        epoch: Epochs done before this one.
    """

    def __init__(self, samples: Samples, *, seed: int, epoch: int) -> None:
        self.samples = samples
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        # The generator is put back, so that reading here and reading in another process look the same to the
        # training process. torch.manual_seed would seed CUDA's generators as well, which nothing puts back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix(self.seed, "sample", self.epoch, index))
            return self.samples[index], index


class SeededBatch:
    """What makes one batch of the items of :class:`SeededSamples`: ``(batch, numbers of its samples)``.

    A data set whose samples differ in size says how with a method ``collate``, which takes a list of its
    items; those of any other are stacked as PyTorch does.

    Args:
        samples: The data set.
    """

    def __init__(self, samples: Samples) -> None:
        self._collate = getattr(samples, "collate", default_collate)

    def __call__(self, items: Sequence[tuple[Any, int]]) -> tuple[Sequence[Tensor], Tensor]:
        """Return the batch."""
        return self._collate([sample for sample, _ in items]), torch.tensor([number for _, number in items])
