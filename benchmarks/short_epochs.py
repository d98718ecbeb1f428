"""What averaging the statistics of norms anew gives, and costs, where an epoch has few optimiser steps."""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.about import about
from nonlocalnn.data import load_dataset
from nonlocalnn.train import Recipe, train

# Images of each class, which decide the steps of an epoch.
_IMAGES_EACH = (20, 60, 120)
_EPOCHS = 8
_WAYS = {"running": 0, "averaged anew": None}


def run(
    *,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Train on folders of real digits, by running statistics and by those that are averaged anew.

    Args:
        quick: One seed, one epoch, few images: shows that everything works.
        progress: Takes a line for each training.
        save: Takes the report after each training.

    Returns:
        The report, as JSON can hold it: "about", and "rows", one a training: images, steps of an epoch, way,
        seed, the validation accuracy and both losses of each epoch, and the seconds of all.
    """
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick), "rows": []}
    for each in (8,) if quick else _IMAGES_EACH:
        with tempfile.TemporaryDirectory() as folder:
            _write_images(Path(folder) / "images", each)
            for seed in range(1 if quick else 5):
                for way, norm_batches in _WAYS.items():
                    recipe = Recipe(
                        data="images",
                        data_dir=Path(folder) / "images",
                        epochs=1 if quick else _EPOCHS,
                        norm_batches=norm_batches,
                        seed=seed,
                        device="cpu",
                        output=Path(folder) / f"{way}-{seed}",
                    )
                    row = {"images": 10 * each, "way": way, "seed": seed, **_trained(recipe)}
                    report["rows"].append(row)
                    progress(f"{10 * each} images, seed {seed}, {way}: {row['accuracy'][-1]:.2f}")
                    save(report)
    return report


def _write_images(folder: Path, each: int) -> None:
    """Write the first digits of each class as files, in a folder for each class."""
    digits = load_dataset("digits", "train", image_size=28)
    for target, name in enumerate(digits.classes):
        (folder / name).mkdir(parents=True)
        chosen = [index for index, other in enumerate(digits.targets) if other == target][:each]
        for index in chosen:
            pixels = (digits.read(index)[0] * 255).byte().numpy()
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def _trained(recipe: Recipe) -> dict[str, Any]:
    began = time.perf_counter()
    train(recipe, progress=False)
    seconds = time.perf_counter() - began  # of which the log counts the optimiser steps alone
    with (recipe.output / "log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "steps": int(rows[0]["step"]),
        "accuracy": [float(row["validation_accuracy"]) for row in rows],
        "validation_loss": [float(row["validation_loss"]) for row in rows],
        "train_loss": [float(row["train_loss"]) for row in rows],
        "seconds": seconds,
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    lines = [
        "    python -m benchmarks short-epochs",
        "",
        "`nonlocalnn train --data images` on folders of scikit-learn's digits, all else left open. Mean "
        f"accuracies over {len({row['seed'] for row in report['rows']})} seeds; seconds are medians of whole "
        "trainings.",
        "",
        "| images | steps an epoch | statistics | validation accuracy after each epoch | lowest at end | s |",
        "| ---: | ---: | --- | --- | ---: | ---: |",
    ]
    cells = dict.fromkeys((row["images"], row["steps"], row["way"]) for row in report["rows"])
    for images, steps, way in cells:
        rows = [row for row in report["rows"] if (row["images"], row["way"]) == (images, way)]
        means = [statistics.mean(values) for values in zip(*(row["accuracy"] for row in rows), strict=True)]
        shown = ", ".join(f"{mean:.2f}" for mean in means)
        lowest = min(row["accuracy"][-1] for row in rows)
        seconds = statistics.median(row["seconds"] for row in rows)
        lines.append(f"| {images} | {steps} | {way} | {shown} | {lowest:.2f} | {seconds:.1f} |")
    return "\n".join(lines)
