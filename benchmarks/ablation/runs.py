"""Does a block help? Like with like: the variants of a table, trained by one recipe over several seeds."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from benchmarks.ablation.controls import replace_blocks_
from benchmarks.ablation.intervals import interval
from benchmarks.ablation.variants import TINY_WIDTH, Start, Variant, folder_name, tables
from nonlocalnn._errors import check_choice
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.models.cost import cost
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.train import Recipe, train

Figures = Mapping[str, Any]


def _told_apart(test: Figures) -> float:
    """Return the mean share of correct points over those that look alike: all but the first, the cue."""
    by_point = list(test["keypoint_pck_by_point"].values())
    return statistics.fmean(by_point[1:])


# What the columns show of a test's figures, by the metric that a run of such a task has; the first decides.
_SCORES: dict[str, dict[str, Callable[[Figures], float]]] = {
    "keypoint_ap": {"keypoint AP": itemgetter("keypoint_ap"), "digits told apart": _told_apart},
    "box_ap": {"box AP": itemgetter("box_ap"), "mask AP": itemgetter("mask_ap")},
    "mean_iou": {"mean IoU": itemgetter("mean_iou")},
    "accuracy": {"accuracy": itemgetter("accuracy")},
}


@dataclass(frozen=True)
class AblationRow:
    """The runs of one variant; every list holds a value for each seed in turn.

    Args:
        variant: Its name.
        test_accuracy: Of the weights that the run kept, 0 to 1; it tests once, at its end. Of segmentation
            the mean IoU, of objects the average precision.
        seconds: Training time.
        parameters: Numbers that the network learns; None where nobody counted.
        flops: Of one forward pass of a sample, as :class:`nonlocalnn.models.cost.Cost` counts them with
            every affinity in memory, as papers do; None where nobody counted.
        validation_accuracy: Of the same weights, 0 to 1.
        best_epoch: The epoch they are from, counted from 1.
        threads: Threads that each run had.
        score: What is measured, as the columns call it.
        more: What else the test found, 0 to 1, by what the columns call it.
    """

    variant: str
    test_accuracy: list[float]
    seconds: list[float]
    parameters: int | None = None
    validation_accuracy: list[float] = field(default_factory=list)
    best_epoch: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    score: str = "accuracy"
    more: dict[str, list[float]] = field(default_factory=dict)
    flops: int | None = None

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds."""
        return statistics.fmean(self.test_accuracy)

    @property
    def deviation(self) -> float:
        """Standard deviation of the test accuracy over the seeds; 0 for a single one."""
        return _deviation(self.test_accuracy)

    @classmethod
    def from_metrics(
        cls, variant: str, runs: list[dict[str, Any]], *, flops: int | None = None
    ) -> AblationRow:
        """Return the row of finished runs from what the ``metrics.json`` of each holds.

        Args:
            variant: As the other two, see the class.
            runs: What the files hold.
            flops: Of the network.
        """
        metric = next(name for name in _SCORES if name in runs[0]["test"])
        (score, first), *others = _SCORES[metric].items()
        return cls(
            variant=variant,
            test_accuracy=[first(run["test"]) for run in runs],
            seconds=[run["seconds"] for run in runs],
            parameters=runs[0]["parameters"],
            validation_accuracy=[run[f"validation_{metric}"] for run in runs],
            best_epoch=[run["best_epoch"] for run in runs],
            threads=[run["threads"] for run in runs],
            score=score,
            more={name: [value(run["test"]) for run in runs] for name, value in others},
            flops=flops,
        )


class ChangedTask:
    """The task of a recipe, of a network whose blocks start in another way, or are replaced.

    Args:
        recipe: The training.
        gamma: What the weights of the blocks' last norms start at: 0 makes a block the identity, 1 is the
            norm's own default; None leaves them.
        alike: Whether phi starts with the weights of theta, or with weights of its own; None leaves it.
        control: What stands in the blocks' places, see :mod:`benchmarks.ablation.controls`; None is the
            blocks.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        gamma: float | None = None,
        alike: bool | None = None,
        control: str | None = None,
    ) -> None:
        self._task, self._gamma, self._alike, self._control = task_of(recipe), gamma, alike, control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self, data: Any) -> nn.Module:
        """Return the recipe's network with its blocks' start."""
        model = self._task.model(data)
        for block in nonlocal_blocks(model).values():
            if self._gamma is not None and block.norm is not None:
                nn.init.constant_(block.norm.weight, self._gamma)
            if block.theta is None or block.phi is None:
                continue
            if self._alike is True:
                block.phi.load_state_dict(block.theta.state_dict())
            elif self._alike is False:
                block.phi.reset_parameters()
        if self._control is not None:
            replace_blocks_(model, self._control)
        return model


def plan(base: Recipe, *, table: str = "instantiations", num_seeds: int) -> Iterator[tuple[Variant, Recipe]]:
    """Yield each run's variant and recipe: seeds ``base.seed``, ``base.seed + 1``, ...

    A run's folder says what the run is and not which table it is for: tables share what they have in common.

    Args:
        base: What all runs share. Where the table has networks of its own, they replace ``base.model``.
        table: One of :func:`benchmarks.ablation.variants.tables` of the recipe's data.
        num_seeds: Runs a variant.

    Raises:
        ValueError: ``num_seeds`` is below 1, the data has no such table, or the recipe has settings of the
            network other than its width, or of inserted blocks, or weights to begin with, that the table
            chooses.
    """
    if num_seeds < 1:
        raise ValueError(f"the number of seeds must be at least 1; got {num_seeds}")
    known = tables(base.data, inserts=base.insert is not None)
    check_choice(f"the table of {base.data!r}", table, list(known))
    variants = known[table]
    chosen = {
        name
        for variant in variants
        for name in base.model_overrides
        if name != "width" and (variant.model is not None or name in variant.overrides)
    }
    if chosen:
        raise ValueError(f"model_overrides must leave {', '.join(sorted(chosen))} to the ablation")
    if base.insert is not None and "instantiation" in base.insert_settings:
        raise ValueError("insert_settings must leave instantiation to the ablation")
    if base.start_from is not None and any(variant.start for variant in variants):
        raise ValueError("start_from must be left to the ablation, which trains what its networks begin with")
    # All variants of a seed run before the next seed: what is stopped early still compares like with like.
    base = task_of(base).recipe
    for seed in range(base.seed, base.seed + num_seeds):
        for variant in variants:
            model = base.model if variant.model is None else variant.model
            assert model is not None
            overrides = {**base.model_overrides, **variant.overrides}
            if "width" in base.model_overrides and "width" in variant.overrides:
                overrides["width"] = variant.overrides["width"] * base.model_overrides["width"] // TINY_WIDTH
            insertion: dict[str, Any] = {"insert": base.insert, "insert_settings": base.insert_settings}
            if variant.inserted == "none":
                insertion = {"insert": None, "insert_settings": {}}
            elif variant.inserted is not None:
                insertion["insert_settings"] = {**base.insert_settings, "instantiation": variant.inserted}
            recipe = dataclasses.replace(
                base,
                seed=seed,
                model=model,
                model_overrides=overrides,
                output=base.output
                / folder_name(
                    model, overrides, variant.gamma, variant.alike, variant.control, variant.inserted
                )
                / f"seed-{seed}",
                **insertion,
            )
            if variant.start is not None:
                output = base.output / folder_name(variant.start.model, {}) / f"seed-{seed}"
                recipe = dataclasses.replace(recipe, start_from=output)
            yield variant, recipe


def start_of(start: Start, recipe: Recipe) -> Recipe:
    """Return the recipe of the run that another begins with.

    In the folder of its network, as if it were of a table: so tables of both recipes share it.

    Args:
        start: What is trained.
        recipe: Of the run that begins with it; its seed, its device and where it says that the weights are.
    """
    parser = RecipeParser(program="ablation", description="", example="")
    trained, _ = parser.parse_words(["--config", start.recipe, "--model", start.model])
    assert recipe.start_from is not None, "the plan says where it is"
    common = {name: getattr(recipe, name) for name in ("seed", "device", "num_workers")}
    return dataclasses.replace(trained, output=recipe.start_from, **common)


def ablate(
    base: Recipe, *, table: str = "instantiations", num_seeds: int, progress: bool | None = None
) -> Iterator[list[AblationRow]]:
    """Train every run of :func:`plan` and yield the table as it grows.

    Runs that are finished are read, not repeated, and one that was stopped goes on. Processes with different
    seeds may share ``base.output``.

    Args:
        base: See :func:`plan`.
        table: See :func:`plan`.
        num_seeds: Runs a variant.
        progress: See :func:`nonlocalnn.train.train`.

    Raises:
        ValueError: See :func:`plan`; or a folder holds a run by another recipe.
        KeyboardInterrupt: A signal stopped a run; call again to go on.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    flops: dict[str, int] = {}
    for variant, recipe in plan(base, table=table, num_seeds=num_seeds):
        changes: dict[str, Any] = {"gamma": variant.gamma, "alike": variant.alike, "control": variant.control}
        is_changed = any(change is not None for change in changes.values())
        if variant.name not in flops:
            flops[variant.name] = _flops(ChangedTask(recipe, **changes))
        if variant.start is not None:
            _train(start_of(variant.start, recipe), progress=progress)
        _train(
            recipe,
            task=ChangedTask(recipe, **changes) if is_changed else None,
            progress=progress,
        )
        metrics = json.loads((recipe.output / "metrics.json").read_text(encoding="utf-8"))
        runs.setdefault(variant.name, []).append(metrics)
        yield [AblationRow.from_metrics(name, finished, flops=flops[name]) for name, finished in runs.items()]


def _train(recipe: Recipe, *, task: Any = None, progress: bool | None) -> None:
    if train(recipe, task=task, resume="if any", progress=progress).interrupted:
        raise KeyboardInterrupt


def _flops(task: ChangedTask) -> int:
    data = task.data("validation")
    # The numbers that the weights are drawn from are the caller's.
    with torch.random.fork_rng(devices=[]):
        return cost(task.model(data), (1, *data.sample_shape)).materialised_flops


def markdown(rows: list[AblationRow]) -> str:
    """Return the table: a row a variant, with mean and standard deviation of the test accuracy in %.

    The interval is the mean's, of 95 %, where there are several seeds. A column stands only where every row
    has figures for it.

    Example:
        >>> print(markdown([AblationRow("no block", [0.98, 0.99], [10.0, 12.0], parameters=1234)]))
        | variant | parameters | test accuracy, % | 95 % interval | each seed | training, s |
        | --- | --- | --- | --- | --- | --- |
        | no block | 1,234 | 98.50 ± 0.71 | 92.15 to 100.00 | 98.00, 99.00 | 11 |
    """
    columns = {
        "variant": [row.variant for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows if row.parameters is not None],
        "MFLOPs": [f"{row.flops / 1e6:.1f}" for row in rows if row.flops is not None],
    }
    for place, name in enumerate((rows[0].score, *rows[0].more)):
        values = [row.more[name] if place else row.test_accuracy for row in rows]
        columns[f"test {name}, %"] = [
            f"{100 * statistics.fmean(each):.2f}"
            + (f" ± {100 * _deviation(each):.2f}" if len(each) > 1 else "")
            for each in values
        ]
        columns["95 % interval" if place == 0 else f"{name}, 95 % interval"] = [
            "{:.2f} to {:.2f}".format(*interval([100 * value for value in each]))
            for each in values
            if len(each) > 1
        ]
        columns["each seed" if place == 0 else f"{name}, each seed"] = [
            ", ".join(f"{100 * value:.2f}" for value in each) for each in values
        ]
    columns["training, s"] = [f"{statistics.fmean(row.seconds):.0f}" for row in rows if row.seconds]
    shown = {title: cells for title, cells in columns.items() if len(cells) == len(rows)}
    lines = [list(shown), ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
