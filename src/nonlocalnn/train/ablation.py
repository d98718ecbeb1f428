"""Does a block help? The same recipe without blocks and with each instantiation, over several seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nonlocalnn.functional import INSTANTIATIONS
from nonlocalnn.train.checkpoint import has_state
from nonlocalnn.train.recipe import Recipe
from nonlocalnn.train.trainer import train

VARIANTS: dict[str, dict[str, Any]] = {
    "no block": {"blocks": False},
    **{name: {"instantiation": name} for name in INSTANTIATIONS},
}


@dataclass(frozen=True)
class AblationRow:
    """The runs of one variant.

    Args:
        variant: Its name.
        test_accuracy: Of each seed in turn, 0 to 1.
        seconds: Training time of each seed.
    """

    variant: str
    test_accuracy: list[float]
    seconds: list[float]

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds."""
        return statistics.fmean(self.test_accuracy)

    @property
    def deviation(self) -> float:
        """Standard deviation of the test accuracy over the seeds; 0 for a single one."""
        return statistics.stdev(self.test_accuracy) if len(self.test_accuracy) > 1 else 0.0


def plan(base: Recipe, *, num_seeds: int) -> Iterator[tuple[str, Recipe]]:
    """Yield each run's variant and recipe: seeds ``base.seed``, ``base.seed + 1``, ...

    Raises:
        ValueError: ``num_seeds`` is below 1, or the recipe already chooses a variant.
    """
    if num_seeds < 1:
        raise ValueError(f"the number of seeds must be at least 1; got {num_seeds}")
    chosen = {"blocks", "instantiation"} & base.model_overrides.keys()
    if chosen:
        raise ValueError(f"model_overrides must leave {', '.join(sorted(chosen))} to the ablation")
    # All variants of a seed run before the next seed: what is stopped early still compares like with like.
    for seed in range(base.seed, base.seed + num_seeds):
        for variant, overrides in VARIANTS.items():
            yield (
                variant,
                dataclasses.replace(
                    base,
                    seed=seed,
                    model_overrides={**base.model_overrides, **overrides},
                    output=base.output / variant.replace(" ", "-") / f"seed-{seed}",
                ),
            )


def ablate(base: Recipe, *, num_seeds: int, progress: bool | None = None) -> Iterator[list[AblationRow]]:
    """Train every run of :func:`plan` and yield the table as it grows.

    Runs that are finished are read, not repeated, and one that was stopped goes on.

    Args:
        base: What all runs share.
        num_seeds: Runs a variant.
        progress: See :func:`nonlocalnn.train.train`.

    Raises:
        KeyboardInterrupt: A signal stopped a run; call again to go on.
    """
    accuracies: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for variant, recipe in plan(base, num_seeds=num_seeds):
        result = train(recipe, resume=has_state(recipe.output), progress=progress)
        if result.test is None:
            raise KeyboardInterrupt
        accuracies.setdefault(variant, []).append(result.test["accuracy"])
        seconds.setdefault(variant, []).append(result.seconds)
        yield [AblationRow(name, accuracies[name], seconds[name]) for name in accuracies]


def markdown(rows: list[AblationRow]) -> str:
    """Return the table: variant, mean and standard deviation of the test accuracy in %, and each seed's.

    Example:
        >>> print(markdown([AblationRow("no block", [0.98, 0.99], [10.0, 12.0])]))
        | variant | test accuracy, % | each seed |
        | --- | --- | --- |
        | no block | 98.50 ± 0.71 | 98.00, 99.00 |
    """
    lines = ["| variant | test accuracy, % | each seed |", "| --- | --- | --- |"]
    for row in rows:
        each = ", ".join(f"{100 * value:.2f}" for value in row.test_accuracy)
        score = f"{100 * row.mean:.2f} ± {100 * row.deviation:.2f}"
        lines.append(f"| {row.variant} | {score} | {each} |")
    return "\n".join(lines)
