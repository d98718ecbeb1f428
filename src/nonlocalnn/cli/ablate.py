"""``nonlocalnn ablate``."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Sequence

import torch

from nonlocalnn._files import write_text
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.train.ablation import ablate, markdown


def run(words: Sequence[str]) -> int:
    """Train every variant over the seeds; write ablation.json and ablation.md."""
    parser = RecipeParser(
        name="ablate",
        description="Train one recipe without blocks and with each instantiation, over several seeds. Called "
        "again, it goes on where it was stopped.",
        example="nonlocalnn ablate digits --seeds 3 --output runs/ablation",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs a variant, from --seed upwards")
    # The data set is this command's subject and stands first, without a flag.
    if words and not words[0].startswith("-"):
        words = ["--data", *words]
    recipe, parsed = parser.parse_words(words)
    rows = []
    for rows in ablate(recipe, num_seeds=parsed.seeds):
        last = rows[(sum(len(row.test_accuracy) for row in rows) - 1) % len(rows)]
        print(
            f"{last.variant}, seed {recipe.seed + len(last.test_accuracy) - 1}: "
            f"test accuracy {last.test_accuracy[-1]:.4f}",
            file=sys.stderr,
        )
    table = markdown(rows)
    report = {
        "recipe": recipe.to_dict(),
        "seeds": parsed.seeds,
        "rows": [{**dataclasses.asdict(row), "mean": row.mean, "deviation": row.deviation} for row in rows],
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    write_text(recipe.output / "ablation.json", json.dumps(report, indent=2) + "\n")
    write_text(recipe.output / "ablation.md", table + "\n")
    print(table)
    print(f"results in {recipe.output}")
    return 0
