"""The deletion test: how much does the score change without the positions that a block attends to?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.affinity import PositionGrid, summarise
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.inference.classifier import Classifier
from nonlocalnn.models import ResidualNetwork

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
        gradient: Change without the keys that the gradient ranks first, which knows nothing of the block;
            None where no gradient reaches the input.
        random: Change without as many random keys, one number a draw.
    """

    block: str
    fraction: float
    number: int
    num_keys: int
    most: float
    least: float
    gradient: float | None
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
    costs = _linear_costs(loaded, sample, predicted)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, weights in answer.maps.items():
        nearest = _nearest_keys(weights.key_grid)
        # The keys as flat indices, the most attended first.
        ranked = summarise(weights).attended[0].flatten().argsort(descending=True)
        by_gradient = None
        if costs is not None:
            by_key = costs.new_zeros(len(ranked)).index_add(0, nearest.flatten(), costs.flatten())
            by_gradient = by_key.argsort(descending=True)
        numbers: dict[int, float] = {}
        for fraction in fractions:
            numbers.setdefault(max(1, round(fraction * len(ranked))), fraction)
        # Of few keys several shares are the same key: drawn anew they would look like as many findings.
        for number, fraction in numbers.items():
            sets = [ranked[:number], ranked[-number:]]
            sets += [] if by_gradient is None else [by_gradient[:number]]
            sets += [torch.randperm(len(ranked), generator=generator)[:number] for _ in range(num_random)]
            masked = torch.stack([_without(sample, torch.isin(nearest, keys)) for keys in sets])
            after = loaded.ask(masked, batch_size=batch_size)[:, predicted] - before
            most, least, *drawn = after.tolist()
            gradient = None if by_gradient is None else drawn.pop(0)
            found.append(Deletion(name, fraction, number, len(ranked), most, least, gradient, tuple(drawn)))
    return found


def _linear_costs(loaded: Classifier, sample: Tensor, predicted: int) -> Tensor | None:
    r"""Return by how much the odds of a class would fall without each pixel, to first order, (\*sides).

    None where no gradient reaches the input, as of a network that rounds it or was made in inference mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        given = sample.clone().unsqueeze(0).to(loaded.device).requires_grad_()
        try:
            odds = _log_odds(loaded, given, predicted)
            (gradient,) = torch.autograd.grad(odds, given, allow_unused=True)
        except RuntimeError:
            return None
    if gradient is None or not gradient.any():
        return None
    return (gradient[0].cpu() * (sample - _mean(sample))).sum(0).double()


def _log_odds(loaded: Classifier, given: Tensor, predicted: int) -> Tensor:
    """Return the logarithm of the odds of a class as the classifier says them, shape ()."""
    model = loaded.model
    if loaded.kind.exceeds_training and isinstance(model, ResidualNetwork):
        # Its probabilities are means over windows.
        found = model.probabilities_of(model.features(given), multi_label=loaded.multi_label)[0].double()
        own = found[predicted]
        rest = (1 if loaded.multi_label else found.sum()) - own
        return own.log() - rest.clamp(min=torch.finfo(torch.float64).tiny).log()
    scores = model(given)[0].double()
    others = torch.cat([scores[:predicted], scores[predicted + 1 :]])
    if loaded.multi_label or not len(others):
        return scores[predicted]
    # Of scores, since a probability near 1 has no gradient left; and of two scores one may say everything.
    return scores[predicted] - others.logsumexp(0)


def _nearest_keys(grid: PositionGrid) -> Tensor:
    r"""Return for each pixel the flat index of the key that is nearest, int64 (\*sides)."""
    keys = torch.arange(math.prod(grid.sides)).view(grid.sides)
    for axis, side in enumerate(grid.input_sides):
        # The same point along the other axes: positions are nearest along each axis by itself.
        origin = [0] * len(grid.sides)
        nearest = [grid.position(*origin[:axis], pixel, *origin[axis + 1 :])[axis] for pixel in range(side)]
        keys = keys.index_select(axis, torch.tensor(nearest))
    return keys


def _without(sample: Tensor, taken: Tensor) -> Tensor:
    """Return a sample with some pixels replaced by its mean."""
    # In the input and not inside the block: masking there would test the block, not its map of the input.
    return torch.where(taken, _mean(sample), sample)


def _mean(sample: Tensor) -> Tensor:
    return sample.flatten(1).mean(1).view(-1, *[1] * (sample.dim() - 1))
