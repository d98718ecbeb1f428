"""``nonlocalnn train``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nonlocalnn._errors import counted
from nonlocalnn.cli.flags.train import parser
from nonlocalnn.cli.outputs import check_folder
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.train import train


def _samples(test: dict[str, Any]) -> str:
    views = f", {test['views']}" if "views" in test else ""
    return f"{counted(test['num_samples'], 'sample')}{views}"


def _with_flags_of_folder(words: Sequence[str]) -> list[str]:
    """Return the words with flags in place of a folder, which stands before all flags."""
    folder, flags = words[:1], list(words[1:])
    if not folder or folder[0].startswith("-"):
        return list(words)
    given = {flag.partition("=")[0] for flag in flags}
    if given & {"--data-dir", "--data_dir"}:
        raise ValueError(f"the folder is named twice, as {folder[0]} and by --data-dir: leave one out")
    if "--data" not in given:
        flags += ["--data", recognised_data(Path(folder[0]))]
    return [*flags, "--data-dir", folder[0]]


def _with_recipe_of_run(words: Sequence[str]) -> list[str]:
    """Return the words with the recipe of the run that is gone on with, where they name no data."""
    names = [word.partition("=")[0] for word in words]
    if "--resume" not in names or "--output" not in names or {"--data", "--config"} & set(names):
        return list(words)
    place = names.index("--output")
    output = words[place].partition("=")[2] or "".join(words[place + 1 : place + 2])
    recipe = Path(output) / "recipe.json"
    # First, so that what is typed wins.
    return ["--config", str(recipe), *words] if recipe.is_file() else list(words)


def run(words: Sequence[str]) -> int:
    """Train by a recipe; the exit status of an interrupted run is 128 and the signal's number."""
    recipe, parsed = parser().parse_words(_with_recipe_of_run(_with_flags_of_folder(words)))
    # Before data and networks are loaded: a wrong path is said in the first second.
    check_folder(recipe.output)
    result = train(recipe, resume="if any" if parsed.resume_if_any else parsed.resume)
    if result.signal_number is not None:
        print(
            f"stopped after {result.steps} steps; everything is saved: go on with --resume --output "
            f"{result.output}",
            file=sys.stderr,
        )
        return 128 + result.signal_number
    # Under torchrun every process comes here, and one of them speaks.
    if os.environ.get("RANK", "0") == "0":
        assert result.test is not None
        assert result.best_metric is not None
        metric = result.metric.replace("_", " ")
        kept = "the last" if recipe.keep == "last" else "the best"
        print(f"validation {metric}  {result.best_metric:.4f}  (epoch {result.best_epoch}, {kept})")
        print(f"test {metric}  {result.test[result.metric]:.4f}  ({_samples(result.test)})")
        print(f"results in {result.output}")
    return 0
