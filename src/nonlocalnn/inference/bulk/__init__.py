"""A list of any number of files, answered part by part, in a loop or by the workers of Ray.

The list is cut into parts of consecutive lines. A part is written once it is complete, beside its place, and
renamed, so that a run that was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import nonlocalnn
from nonlocalnn._device import Precision
from nonlocalnn._errors import check_choice, check_positive, check_whole
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.inference.bulk.answers import AnswerPaths
from nonlocalnn.inference.bulk.folder import OutputFolder
from nonlocalnn.inference.bulk.path_list import PathList, read_list
from nonlocalnn.inference.bulk.ray_engine import ray_workers

__all__ = ["AnswerPaths", "BulkResult", "predict_list"]

# Each costs Ray some milliseconds.
_MOST_UNITS = 10_000


@dataclass(frozen=True)
class BulkResult:
    """What :func:`predict_list` did.

    Args:
        lines: Paths in the list.
        blank: Lines without one.
        repeated: Paths that stand further up in the list already; each has its answer.
        failed: Files that could not be read.
        failures: The file that lists them.
        assumptions: What the model's file does not say, and was taken from its network; see
            :attr:`nonlocalnn.inference.Classifier.assumptions`.
    """

    lines: int
    blank: int
    repeated: int
    failed: int
    failures: Path
    assumptions: str = ""


def predict_list(
    list_path: str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    top: int = 3,
    views: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    device: str = "auto",
    part_size: int = 1000,
    num_workers: int = 0,
    engine: Literal["loop", "ray"] = "loop",
    workers: int | None = None,
    watch: Callable[[Iterator[int], int], Iterable[int]] | None = None,
) -> BulkResult:
    r"""Predict the files of a list.

    The folder gets ``part-000000.jsonl`` and so on, a line for each path in the order of the list: what
    :meth:`~nonlocalnn.inference.Classifier.predict_many` answers, with the path as the list has it;
    ``manifest.json``, which says what was asked; and at the end ``failed.txt``, which lists what could not be
    read. Parts that are there are not done again.

    Args:
        list_path: A text file with a path a line; see :func:`~nonlocalnn.inference.bulk.path_list.read_list`.
        output_folder: Where the results go; made where it is missing.
        model: A checkpoint, or the folder of a run (its best weights).
        root: What paths are relative to; by default the list's folder.
        top: How many classes to report, at most K.
        views: Of videos: 1, the clip in the middle (default), or 30, 10 clips x 3 crops.
        batch_size: Images, or views of videos, a forward pass; by default 64 images or 8 views.
        precision: "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda" or, with the loop, "cuda:N".
        part_size: Paths of a part.
        num_workers: Processes that read files ahead of the loop; 0 reads in this one.
        engine: "loop" is this process; "ray" is workers of Ray, which must see the files and the model.
        workers: Of Ray, how many; by default one a GPU or, without GPUs, one a CPU.
        watch: Takes an iterator over the number of lines done so far, and the number in the list, and gives
            the former back one by one, to show how far it is.

    Raises:
        FileNotFoundError: The list, the root or the model does not exist.
        CheckpointError: The model's file does not fit, or does not say which samples it takes.
        ValueError: A setting is out of range or has no effect; the list names no path; the folder holds
            results of another list, model or setting; or Ray's cluster has no room for the workers.
        ImportError: Ray is asked for and not installed.
        TimeoutError: Others hold what Ray's workers need.
        ChildProcessError: A worker of Ray failed for good.

    Memory: some 120 bytes a line, the answers of a part (with Ray, of several), and the files of 2 batches a
        reading process, of one at least.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> import nonlocalnn as nl
        >>> folder = Path(tempfile.mkdtemp())
        >>> facts = {"classes": ["a", "b"], "sample_shape": [1, 28, 28]}
        >>> digits = nl.create_model("nl_digits", num_classes=2)
        >>> nl.save_checkpoint(digits, folder / "m.safetensors", metadata=facts)
        >>> Image.new("L", (28, 28)).save(folder / "1.png")
        >>> _ = (folder / "files.txt").write_text("1.png\n2.png\n")
        >>> found = predict_list(folder / "files.txt", folder / "out", model=folder / "m.safetensors")
        >>> found.lines, found.failed
        (2, 1)
        >>> sorted(path.name for path in (folder / "out").iterdir())
        ['failed.txt', 'manifest.json', 'part-000000.jsonl']
    """
    check_choice("engine", engine, ("loop", "ray"))
    check_positive(part_size=part_size)
    check_whole("num_workers", num_workers, least=0)
    other, value = ("workers", workers) if engine == "loop" else ("num_workers", num_workers)
    if value:
        raise ValueError(f"{other} has no effect with engine {engine!r}: leave it out")
    list_path, weights = Path(list_path), weights_file(model).absolute()
    root = Path(list_path.parent if root is None else root).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"paths of the list are relative to {root}, and there is no such folder")
    settings: dict[str, Any] = {
        "model": weights,
        "root": root,
        "top": top,
        "views": views,
        "batch_size": batch_size,
        "precision": precision,
    }
    # With Ray it is loaded here to check its settings, and never asked.
    answerer = AnswerPaths(**settings, device=device if engine == "loop" else "cpu")
    listed = read_list(list_path)
    with (
        nullcontext(_Loop(answerer, num_workers))
        if engine == "loop"
        else ray_workers(settings, workers=workers, device=device)
    ) as answering:
        run = _describe_run(listed, weights, answerer, part_size, answering.device)
        folder = OutputFolder(Path(output_folder), len(listed.names), part_size, run)
        folder.open()
        units = folder.missing(_unit_size(answerer.files_a_batch, len(listed.names)))
        done = folder.write(answering.answers(listed.names, units))
        for _ in done if watch is None else watch(done, len(listed.names)):
            pass
    return BulkResult(
        lines=len(listed.names),
        blank=listed.blank,
        repeated=listed.repeated,
        failed=folder.finish(),
        failures=folder.failures,
        assumptions=answerer.classifier.assumptions,
    )


@dataclass(frozen=True)
class _Loop:
    """This process, which answers in the order of the list."""

    answerer: AnswerPaths
    num_workers: int

    @property
    def device(self) -> str:
        return self.answerer.classifier.device.type

    def answers(self, names: Sequence[str], units: Sequence[range]) -> Iterator[tuple[int, str]]:
        groups = ([names[line] for line in unit] for unit in units)
        answers = self.answerer.answers(groups, num_workers=self.num_workers)
        return zip(chain.from_iterable(units), answers, strict=True)


def _unit_size(files_a_batch: int, num_files: int) -> int:
    """Return how many files are taken at a time: one batch, or several of a very long list."""
    return files_a_batch * -(-num_files // (files_a_batch * _MOST_UNITS))


def _describe_run(
    listed: PathList, weights: Path, answerer: AnswerPaths, part_size: int, device: str
) -> dict[str, Any]:
    """Return what the results depend on, but for the files themselves and the last bits of a processor."""
    with weights.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "list": {
            "sha256": listed.sha256,
            "root": str(answerer.root),
            "lines": len(listed.names),
            "blank": listed.blank,
            "repeated": listed.repeated,
        },
        "model": {"sha256": sha256},
        "settings": {
            "part_size": part_size,
            "top": answerer.top,
            "views": answerer.views,
            "batch_size": answerer.batch_size,
            "precision": answerer.precision,
            "device": device,
        },
        "nonlocalnn": {"version": nonlocalnn.__version__},
    }
