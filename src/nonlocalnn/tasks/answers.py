"""The classes of files: the most probable ones, or why there is no answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nonlocalnn._device import Precision
from nonlocalnn._workers import Batches, leave_signals_to_parent
from nonlocalnn.data.sequences.padding import pad_batch
from nonlocalnn.tasks.inputs import Facts
from nonlocalnn.tasks.kinds import kind_of_facts
from nonlocalnn.tasks.probabilities import check_finite, class_probabilities


def answer_files(
    model: nn.Module,
    groups: Iterable[Sequence[str | os.PathLike[str]]],
    facts: Facts,
    *,
    root: str | os.PathLike[str] = "",
    views: int | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    top: int = 3,
) -> Iterator[dict[str, Any]]:
    r"""Yield, for each file in turn, its most probable classes, or why it could not be read.

    Views are averaged as :func:`~nonlocalnn.tasks.probabilities.class_probabilities` says.

    Args:
        model: Takes (B, C, \*sides) and returns scores (B, K); it is left in eval mode.
        groups: Files, and of videos folders of frame images. No batch has files of two groups, so that
            answers do not depend, in their last digits, on the groups beside.
        facts: What the model takes, and its classes.
        root: What paths are relative to.
        views: Of videos: 1, the clip in the middle (default), or 30, 10 clips x 3 crops.
        batch_size: Images, or views of videos, a forward pass; None is 64 images or 8 views.
        num_workers: Processes that read, two batches each ahead of the answers; 0 reads in this one.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        top: How many classes to report, at most K.

    Yields:
        ``{"path", "class", "probability", "top": [{"class", "probability"}, ...]}``, and for a video
        ``"views"``, "1 clip" or "30 views (10 clips x 3 crops)"; or ``{"path", "error"}`` for a file that is
        missing or cannot be read.

    Raises:
        ValueError: ``views`` is no such number, or the model takes no videos.

    Memory: ``batch_size`` images, or the views of one video; with reading processes two more for each.
    """
    kind = kind_of_facts(facts)
    name = kind.views(views)
    batch_size = kind.batch_size if batch_size is None else batch_size
    most = files_a_batch(facts, batch_size)
    model.eval()
    batches = (group[start : start + most] for group in groups for start in range(0, len(group), most))
    loader = DataLoader(
        # Without the model that a Facts may be: reading processes may be sent what they are given.
        _Files(root, Facts(**{each.name: getattr(facts, each.name) for each in fields(Facts)}), views),
        batch_sampler=batches,  # type: ignore[arg-type]  # of paths in place of numbers
        num_workers=num_workers,
        collate_fn=_stack,
        worker_init_fn=leave_signals_to_parent,
    )
    for read, lengths, files in Batches(loader) if num_workers else loader:
        rows: Iterator[Tensor] = iter(())
        if read is not None:
            rows = iter(
                class_probabilities(
                    model,
                    kind.prepare(read, facts),
                    multi_label=facts.multi_label,
                    everywhere=kind.exceeds_training,
                    batch_size=batch_size,
                    device=device,
                    precision=precision,
                    lengths=lengths,
                )
            )
        for path, error in files:
            found = {"error": error} if error is not None else _answer(next(rows), facts.classes, top=top)
            named = {} if name is None or error is not None else {"views": name}
            yield {"path": str(path), **named, **found}


def files_a_batch(facts: Facts, batch_size: int) -> int:
    """Return how many files are answered together: images, or one video with all its views.

    Videos come one by one, so that the last digits of an answer do not depend on the files beside.
    """
    return 1 if kind_of_facts(facts).views_a_file else batch_size


@dataclass(frozen=True)
class _Files(Dataset[Any]):
    """Files by their paths below ``root``: each read, or why it cannot be."""

    root: str | os.PathLike[str]
    facts: Facts
    views: int | None

    def __getitem__(self, path: str | os.PathLike[str]) -> tuple[str | os.PathLike[str], Tensor | str]:
        kind = kind_of_facts(self.facts)
        try:
            # A part of an archive is no path, and lies where it says.
            place = Path(self.root, path) if isinstance(path, str | os.PathLike) else path
            return path, kind.read(place, self.facts, views=self.views)
        except (OSError, ValueError) as error:
            return path, str(error)


def _stack(
    read: Sequence[tuple[Any, Tensor | str]],
) -> tuple[Tensor | None, list[Tensor], list[tuple[Any, str | None]]]:
    """Collate in the reading process: each tensor that is handed over costs an open file.

    Returns:
        What was read, stacked; of sequences that differ in length, which are padded, the lengths; and each
        path with what was wrong with it, if anything.
    """
    samples = [sample for _, sample in read if isinstance(sample, Tensor)]
    files = [(path, None if isinstance(sample, Tensor) else sample) for path, sample in read]
    if not samples:
        return None, [], files
    # A view of a sequence is (C, N); all other kinds are read in one size.
    if samples[0].dim() != 3:
        return torch.stack(samples), [], files
    batch, lengths = pad_batch(samples)
    return batch, [] if lengths is None else [lengths], files


def _answer(probabilities: Tensor, classes: Sequence[str], *, top: int) -> dict[str, Any]:
    """Return :func:`most_probable`, or ``{"error": reason}`` where there is no answer."""
    try:
        return most_probable(probabilities, classes, top=top)
    except ValueError as error:
        return {"error": str(error)}


def most_probable(probabilities: Tensor, classes: Sequence[str], *, top: int) -> dict[str, Any]:
    """Return the most probable class, and those that follow.

    Args:
        probabilities: One a class, (K,).
        classes: The K class names.
        top: How many classes to list, at most K.

    Raises:
        ValueError: A probability is not finite.

    Example:
        >>> most_probable(torch.tensor([0.25, 0.75]), ["run", "walk"], top=1)
        {'class': 'walk', 'probability': 0.75, 'top': [{'class': 'walk', 'probability': 0.75}]}
    """
    check_finite(probabilities)
    values, indices = probabilities.topk(min(top, len(classes)))
    listed = [
        {"class": classes[index], "probability": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
    return {**listed[0], "top": listed}
