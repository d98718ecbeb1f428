"""Put a block into a digit network that was trained without any, train on, compare with training on alone.

Writes a folder a run below ``runs/finetune``, and ``finetune.json``; a minute or two.
"""

import dataclasses
import json
import statistics
from pathlib import Path

import torch
from torch import nn

import nonlocalnn as nl
from nonlocalnn.data import LabelledSamples
from nonlocalnn.train import ClassificationTask, Recipe, train

OUTPUT, SEEDS = Path("runs/finetune"), (0, 1, 2)
BASE = Recipe(epochs=5, lr=2e-3, schedule="cosine", model_overrides={"blocks": False}, device="cpu")


@dataclasses.dataclass(frozen=True)
class Inserting(ClassificationTask):
    """Goes on with trained weights, after a block was put into the network or not."""

    weights: Path
    has_block: bool

    def model(self, data: LabelledSamples) -> nn.Module:
        """Return the trained network."""
        network = nl.load_checkpoint(self.weights, super().model(data))
        if self.has_block:
            nl.insert_nonlocal_(network, ["conv_2"], example_input=torch.zeros(1, 1, 28, 28))
        return network


def main() -> None:
    """Train all, and write and print their test accuracies."""
    scores: dict[str, list[float]] = {"before": [], "5 epochs more": [], "5 epochs more, with a block": []}
    for seed in SEEDS:
        first = dataclasses.replace(BASE, seed=seed, output=OUTPUT / f"first-{seed}")
        found = [train(first, progress=False)]
        for has_block in (False, True):
            name = f"block-{seed}" if has_block else f"plain-{seed}"
            # Other random numbers than the first time, or the batches would repeat those of the first epochs.
            recipe = dataclasses.replace(BASE, seed=seed + 100, output=OUTPUT / name)
            task = Inserting(recipe, first.output / "best.safetensors", has_block)
            found.append(train(recipe, task=task, progress=False))
        for name, result in zip(scores, found, strict=True):
            assert result.test is not None, "no run was stopped"
            scores[name].append(result.test["accuracy"])
    (OUTPUT / "finetune.json").write_text(json.dumps({"rows": scores, "seeds": SEEDS}, indent=2) + "\n")
    for name, values in scores.items():
        print(f"{name}: {100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f} %")


if __name__ == "__main__":
    main()
