"""``python -m benchmarks ablation``."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Sequence

import torch

from benchmarks.ablation.picture import draw_accuracies
from benchmarks.ablation.runs import AblationRow, ablate, markdown
from benchmarks.ablation.variants import WITH_TABLES, Table, tables
from nonlocalnn._files import write_text
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.train import Recipe

_PROGRAM = "python -m benchmarks ablation"


def run(words: Sequence[str]) -> int:
    """Train every variant of a table over the seeds; write the table as JSON, Markdown and a picture."""
    parser = RecipeParser(
        program=_PROGRAM,
        description="Train the networks of a table of the data set that is named first, such as cue, by one "
        "recipe, over several seeds. Called again, it goes on where it was stopped; tables in one output "
        "folder share the runs they have in common.",
        example=f"{_PROGRAM} cue --table stage --seeds 3 --output runs/ablation",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs a variant, from --seed upwards; 3 unless given"
    )
    parser.add_argument(
        "--table",
        default="instantiations",
        help="; ".join(f"for {name} {', '.join(tables(name))}" for name in WITH_TABLES)
        + "; for other data instantiations; where --insert names places, those of the blocks there, and "
        "controls; or all. Unless given instantiations",
    )
    # The data set is this command's subject and stands first, without a flag; moved to the end, it also wins
    # over the data set in a file.
    if words and not words[0].startswith("-"):
        words = [*words[1:], "--data", words[0]]
    recipe, parsed = parser.parse_words(words)
    known = tables(recipe.data, inserts=recipe.insert is not None)
    for table in known if parsed.table == "all" else [parsed.table]:
        rows = _train(recipe, table, parsed.seeds)
        _write(recipe, table, known[table], parsed.seeds, rows)
        print(markdown(rows))
        print(f"results in {recipe.output / table}.md, .json and .png")
    return 0


def _train(recipe: Recipe, table: str, num_seeds: int) -> list[AblationRow]:
    rows: list[AblationRow] = []
    for rows in ablate(recipe, table=table, num_seeds=num_seeds):
        # Runs go round the variants seed by seed.
        last = rows[(sum(len(row.test_accuracy) for row in rows) - 1) % len(rows)]
        print(
            f"{table}: {last.variant}, seed {recipe.seed + len(last.test_accuracy) - 1}: "
            f"test {last.score} {last.test_accuracy[-1]:.4f}",
            file=sys.stderr,
        )
    return rows


def _write(recipe: Recipe, table: str, variants: Table, num_seeds: int, rows: list[AblationRow]) -> None:
    report = {
        "table": table,
        "recipe": recipe.to_dict(),
        "seeds": num_seeds,
        "variants": [dataclasses.asdict(variant) for variant in variants],
        "rows": [{**dataclasses.asdict(row), "mean": row.mean, "deviation": row.deviation} for row in rows],
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    write_text(recipe.output / f"{table}.json", json.dumps(report, indent=2) + "\n")
    write_text(recipe.output / f"{table}.md", markdown(rows) + "\n")
    scores = {row.variant: row.test_accuracy for row in rows}
    draw_accuracies(scores, recipe.output / f"{table}.png", score=rows[0].score)
