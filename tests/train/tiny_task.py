"""A task small enough for a test, with what makes resuming hard: batch norm, dropout, augmentation."""

import json
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from nonlocalnn.data.labelled import LabelledSamples
from nonlocalnn.tasks.evaluation import evaluate
from nonlocalnn.train import Recipe
from nonlocalnn.train.state.resuming import read_tensors
from tolerances import assert_same

LENGTHS = {"train": 27, "validation": 10, "test": 9}

TIMES = ("seconds", "samples_per_second", "slowest_rank", "slowest_seconds", "fastest_seconds")


class Points(LabelledSamples):
    """Random images of three classes; training images get noise from torch's global generator."""

    image_size = (5, 7)

    def __init__(self, split, *, augment, poison=(), double=False):
        generator = torch.Generator().manual_seed(len(split))
        targets = torch.randint(3, (LENGTHS[split],), generator=generator).tolist()
        super().__init__(classes=("a", "b", "c"), sample_shape=(1, *self.image_size), targets=targets)
        self.split = split
        self.augment = augment and split == "train"
        noise = torch.randn(LENGTHS[split], 1, 5, 7, generator=generator)
        self.images = noise + torch.tensor(self.targets)[:, None, None, None]
        for index in poison if split == "train" else ():
            self.images[index] = float("nan")
        self.images = self.images.to(torch.float64 if double else torch.float32)
        self.reads = 0

    def read(self, index):
        return self.images[index]

    def __getitem__(self, index):
        self.reads += 1
        image = self.read(index)
        return image + 0.1 * torch.randn(1, 5, 7) if self.augment else image, self.targets[index]

    def sample_id(self, index):
        return f"{self.split}/{index}"


class Net(nn.Module):
    def __init__(self, *, plain):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.Identity() if plain else nn.BatchNorm2d(3)
        self.dropout = nn.Identity() if plain else nn.Dropout(0.3)
        self.fc = nn.Linear(3 * 3 * 5, 3)

    def forward(self, x):
        return self.fc(self.dropout(F.relu(self.bn(self.conv(x)))).flatten(1))


@dataclass
class TinyTask:
    """``stop_at`` sends this process a signal during that call of ``loss``, counted from 1.

    ``plain`` leaves out what depends on the number of ranks; ``double`` computes in float64.
    """

    metric = "accuracy"
    plain: bool = False
    double: bool = False
    poison: tuple[int, ...] = ()
    stop_at: int | None = None
    stop_with: int = signal.SIGTERM
    delay: float = 0.0

    def __post_init__(self):
        self.calls = 0
        self.splits = []

    def data(self, split):
        self.splits.append(Points(split, augment=not self.plain, poison=self.poison, double=self.double))
        return self.splits[-1]

    def model(self, data):
        return Net(plain=self.plain).to(torch.float64 if self.double else torch.float32)

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == self.stop_at:
            signal.raise_signal(self.stop_with)
        if self.delay:
            print("step", self.calls, flush=True)
            time.sleep(self.delay)
        images, targets = batch
        scores = model(images)
        return F.cross_entropy(scores, targets), {"accuracy": (scores.argmax(1) == targets).float().mean()}

    def evaluate(self, model, data, *, device, distributed):
        return evaluate(model, data, device=device, distributed=distributed).to_dict()

    def metadata(self, data):
        return {"classes": list(data.classes), "image_size": list(data.image_size), "channels": 1}


def tiny_recipe(output, **changes):
    """Three epochs of six steps; every third sample is left over each time."""
    recipe = Recipe(
        output=Path(output),
        epochs=3,
        batch_size=4,
        lr=0.01,
        device="cpu",
        schedule="cosine",
        seed=7,
        norm_batches=0,
    )
    return replace(recipe, **changes)


def saved_position(output):
    """How far a run has come, by its newest state."""
    return json.loads((Path(output) / "last" / "manifest.json").read_text())["position"]


def saved_tensors(output, name="last"):
    """The tensors of a run's newest state, put together."""
    return read_tensors(Path(output) / name, lambda name, shape, dtype: torch.empty(shape, dtype=dtype))


def final_state(output):
    """Everything a run must reproduce bit for bit: no times, no paths."""
    manifest = json.loads((Path(output) / "last" / "manifest.json").read_text())
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in manifest["position"]["rows"]
    ]
    return {
        "tensors": saved_tensors(output),
        "scaler": manifest["learner"]["scaler"],
        "rows": rows,
        "epoch": manifest["position"]["epoch"],
    }


def assert_identical(first, second):
    assert_same(first.pop("tensors"), second.pop("tensors"))
    assert first == second
