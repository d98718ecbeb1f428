"""The deletion test: how much does the score change without the positions that a block attends to?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.affinity import PositionGrid, summarise
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.inference.classifier import Classifier

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Deletion:
    """How the probability of the predicted class changed when a part of the input was removed.

    Args:
        block: The block whose keys were ranked.
        fraction: Share of its keys that was asked for.
        number: How many keys were removed: at least one.
        num_keys: How many it has.
        most: Change of the probability without the most attended keys.
        least: Change without the least attended keys.
        random: Change without as many random keys, one number a draw.
    """

    block: str
    fraction: float
    number: int
    num_keys: int
    most: float
    least: float
    random: tuple[float, ...]

    def as_numbers(self) -> dict[str, Any]:
        """Return the values by name, with the mean and the standard deviation of the random draws."""
        return {
            **asdict(self),
            "random": list(self.random),
            "random_mean": statistics.fmean(self.random),
            "random_sd": statistics.stdev(self.random) if len(self.random) > 1 else None,
        }


def deletion_test(
    loaded: Classifier,
    sample: Tensor,
    *,
    blocks: Sequence[str] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    num_random: int = 10,
    seed: int = 0,
    batch_size: int = 8,
) -> list[Deletion]:
    r"""Remove the keys that each block attends to most, or least, or random ones, and compare the scores.

    Keys are ranked by their mean \|weight\| over all queries. To remove a key, the input pixels (of a frame)
    that are nearest to it are set to the sample's mean of each channel. If a map says where the answer came
    from, the probability falls more without the most attended keys than without random ones, and less
    without the least attended.

    Args:
        loaded: The classifier, in eval mode.
        sample: What it takes, (C, \*sides).
        blocks: Names of the blocks; None is all.
        fractions: Shares of the keys, between 0 and 1; at least one key is removed. Of shares that are as
            many keys the first counts.
        num_random: Random draws for each share.
        seed: Of the draws.
        batch_size: Inputs a forward pass.

    Returns:
        One :class:`Deletion` a block and number of keys.

    Raises:
        ValueError: A share is not between 0 and 1, there is no random draw, or the model has no such block.

    Source:
        The deletion metric, as in Petsiuk, Das, Saenko: RISE, BMVC 2018; with random sets beside it.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits").eval()
        >>> loaded = Classifier(model, classes=tuple("0123456789"), sample_shape=(1, 28, 28), recipe={})
        >>> found = deletion_test(loaded, torch.rand(1, 28, 28), fractions=(0.1, 0.5), num_random=3)
        >>> [(each.block, each.fraction, len(each.random)) for each in found][:2]
        [('nl_1', 0.1, 3), ('nl_1', 0.5, 3)]
    """
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"fractions must be numbers between 0 and 1; got {tuple(fractions)}")
    if num_random < 1:
        raise ValueError(f"num_random must be at least 1; got {num_random}")
    answer = answer_with_maps(loaded, sample, blocks=blocks)
    predicted = int(answer.probabilities.argmax())
    before = answer.probabilities[predicted]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, weights in answer.maps.items():
        # The keys as flat indices, the most attended first.
        ranked = summarise(weights).attended[0].flatten().argsort(descending=True)
        numbers: dict[int, float] = {}
        for fraction in fractions:
            numbers.setdefault(max(1, round(fraction * len(ranked))), fraction)
        # Of few keys several shares are the same key: drawn anew they would look like as many findings.
        for number, fraction in numbers.items():
            sets = [ranked[:number], ranked[-number:]]
            sets += [torch.randperm(len(ranked), generator=generator)[:number] for _ in range(num_random)]
            masked = torch.stack([_without(sample, keys, weights.key_grid) for keys in sets])
            after = loaded.ask(masked, batch_size=batch_size)[:, predicted] - before
            most, least, *drawn = after.tolist()
            found.append(Deletion(name, fraction, number, len(ranked), most, least, tuple(drawn)))
    return found


def _without(sample: Tensor, keys: Tensor, grid: PositionGrid) -> Tensor:
    """Return a sample with the pixels that are nearest to these keys replaced by its mean."""
    # In the input and not inside the block: masking there would test the block, not its map of the input.
    taken = torch.zeros(grid.sides, dtype=torch.bool)
    taken.view(-1)[keys] = True
    for axis, side in enumerate(grid.input_sides):
        # The same point along the other axes: positions are nearest along each axis by itself.
        origin = [0] * len(grid.sides)
        nearest = [grid.position(*origin[:axis], pixel, *origin[axis + 1 :])[axis] for pixel in range(side)]
        taken = taken.index_select(axis, torch.tensor(nearest))
    mean = sample.flatten(1).mean(1).view(-1, *[1] * len(grid.sides))
    return torch.where(taken, mean, sample)
