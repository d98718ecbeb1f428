"""Sequences of unequal lengths: without a block, with one, and with one that is not told of the padding."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.about import about
from nonlocalnn._device import eval_mode
from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.data import LabelledSamples
from nonlocalnn.data.sequences.dataset import LabelledSequences
from nonlocalnn.data.sequences.padding import pad_batch
from nonlocalnn.tasks.classification import ClassificationTask
from nonlocalnn.tasks.probabilities import class_probabilities
from nonlocalnn.train import Recipe, train

_SEEDS = (0, 1, 2)
_EPOCHS = 12
_BLOCK = {"blocks": {"layer2": [0]}}
_BATCH = 64


@dataclass(frozen=True)
class Variant:
    """A network, and whether it is told what is padding.

    Args:
        name: What tables call it.
        overrides: Settings of ``resnet1d_tiny``.
        masked: Whether batches come with their lengths, in training, validation and test.
    """

    name: str
    overrides: dict[str, Any]
    masked: bool


VARIANTS = (
    Variant("no block", {}, True),
    Variant("one block", _BLOCK, True),
    Variant("one block, no mask", _BLOCK, False),
)


class _WithoutLengths(LabelledSequences):
    """Sequences in batches that are padded, and do not say so."""

    def collate(self, items: Sequence[tuple[Tensor, int | Tensor]]) -> list[Tensor]:
        return super().collate(items)[:2]


@dataclass(frozen=True)
class _UnmaskedTask(ClassificationTask):
    """Classification as it is where nobody thinks of the padding."""

    def data(self, split: str) -> LabelledSamples:
        data = super().data(split)
        data.__class__ = _WithoutLengths
        return data


def run(
    *,
    data_dir: Path,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Train on a folder of sequences, and compare the answers for padded sequences with those for each alone.

    Args:
        data_dir: What ``--data sequences`` takes.
        quick: One seed, one epoch: shows that everything works.
        progress: Takes a line for each training.
        save: Takes the report after each training.

    Returns:
        The report, as JSON can hold it: "about", "data", "epochs", and "rows", one a training: variant, seed,
        accuracy in padded batches and of each sequence alone, how many answers differ between the two, the
        largest difference of a probability, and parameters.
    """
    report: dict[str, Any] = {
        "about": about(device="cpu", dtype="float32", quick=quick),
        "epochs": 1 if quick else _EPOCHS,
        "rows": [],
    }
    for seed in _SEEDS[:1] if quick else _SEEDS:
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as folder:
                recipe = Recipe(
                    data="sequences",
                    data_dir=data_dir,
                    model="resnet1d_tiny",
                    model_overrides=variant.overrides,
                    epochs=report["epochs"],
                    schedule="cosine",
                    keep="last",
                    seed=seed,
                    device="cpu",
                    output=Path(folder),
                )
                row, data = _trained(variant, recipe)
            report["data"] = data
            report["rows"].append({"variant": variant.name, "seed": seed, **row})
            progress(f"{variant.name}, seed {seed}: {row['padded']:.4f} padded, {row['alone']:.4f} alone")
            save(report)
    return report


def _trained(variant: Variant, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of one training, and what the data is."""
    task = (ClassificationTask if variant.masked else _UnmaskedTask)(recipe)
    result = train(recipe, task=task, progress=False)
    model, test = load_checkpoint(recipe.output / "last.safetensors"), task.data("test")
    assert result.test is not None
    assert isinstance(test, LabelledSequences)
    with eval_mode(model):
        samples = (test[index][0] for index in range(len(test)))
        alone = torch.cat([class_probabilities(model, sample[None, None]) for sample in samples])
        padded = torch.cat(
            [_padded(model, test, start, masked=variant.masked) for start in range(0, len(test), _BATCH)]
        )
    targets = torch.tensor(test.targets)
    row = {
        "padded": float((padded.argmax(1) == targets).double().mean()),
        "alone": float((alone.argmax(1) == targets).double().mean()),
        "changed": int((padded.argmax(1) != alone.argmax(1)).sum()),
        "largest_difference": float((padded - alone).abs().max()),
        "parameters": sum(each.numel() for each in model.parameters()),
    }
    sizes = [len(task.data(split)) for split in ("train", "validation", "test")]
    return row, {
        "name": test.sample_id(0).rpartition("/")[2].partition("_")[0],
        "sizes": sizes,
        "channels": test.channels,
        "lengths": list(test.lengths),
        "classes": len(test.classes),
    }


def _padded(model: torch.nn.Module, test: LabelledSequences, start: int, *, masked: bool) -> Tensor:
    samples = [test[index][0] for index in range(start, min(start + _BATCH, len(test)))]
    batch, lengths = pad_batch(samples)
    known = [lengths] if masked and lengths is not None else []
    return class_probabilities(model, batch.unsqueeze(1), batch_size=_BATCH, lengths=known)


def markdown(report: dict[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    data, rows = report["data"], report["rows"]
    sizes, lengths = data["sizes"], data["lengths"]
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    lines = [
        "    python -m benchmarks sequences --data-dir DIR",
        "",
        f"{data['name']}: {data['classes']} classes; {sizes[0]} training, {sizes[1]} validation and "
        f"{sizes[2]} test sequences of {data['channels']} channels, those of the test of {lengths[0]} to "
        f"{lengths[1]} steps. `resnet1d_tiny`, {report['epochs']} epochs with the cosine schedule, all else "
        f"left open, the last epoch tested; seeds {seeds}. The block follows the bottleneck of `layer2`.",
        "",
        "Test accuracy in %, a number a seed, in padded batches of 64 as in training, and of each sequence "
        "alone; how many answers differ between the two, and by how much a probability does at most.",
        "",
        "| network | padded | mean | alone | mean | answers differ | largest difference | parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        cells = [name]
        for way in ("padded", "alone"):
            values = [100 * row[way] for row in own]
            cells += [", ".join(f"{value:.1f}" for value in values), f"{statistics.mean(values):.1f}"]
        cells += [
            ", ".join(str(row["changed"]) for row in own),
            f"{max(row['largest_difference'] for row in own):.1e}",
            f"{own[0]['parameters']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
