"""A list of any number of files, asked about by any number of processes that share a folder and nothing else.

The list is cut into parts of consecutive lines. A process takes a part that is neither finished nor taken,
answers its files, writes the part beside its place and renames it. There is no process group and no master: a
process that is killed gives its claims back by ending, and whoever comes to its parts later does them.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nonlocalnn
from nonlocalnn._device import Precision, autocast_for, resolve_device
from nonlocalnn.bulk.answers import Asker
from nonlocalnn.bulk.claims import Claims
from nonlocalnn.bulk.folder import OutputFolder
from nonlocalnn.bulk.path_list import PathList, index_list
from nonlocalnn.classifier import load_classifier, weights_file

# How many times in a run it is counted what all processes have done together.
_COUNTS = 1000


@dataclass(frozen=True)
class BulkResult:
    """What :func:`predict_list` found when it had nothing left to do.

    Args:
        lines: Paths in the list.
        blank: Lines without one.
        repeated: Paths that stand further up in the list already; each has its answer.
        unfinished: Parts that are missing: other processes are at work on them, or were when they ended.
        failed: Files that could not be read, by all processes; None while parts are missing.
        failures: The file that lists them, once no part is missing.
        assumptions: What the model's file does not say, and was taken from its network; see
            :attr:`nonlocalnn.classifier.Classifier.assumptions`.
    """

    lines: int
    blank: int
    repeated: int
    unfinished: int
    failed: int | None
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
    shard_size: int = 1000,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    watch: Callable[[Iterator[int], int], Iterable[int]] | None = None,
) -> BulkResult:
    r"""Predict the files of a list, together with other processes that were started alike.

    The folder gets ``part-000000.jsonl`` and so on, a line for each path in the order of the list: what
    :meth:`~nonlocalnn.classifier.Classifier.predict_many` answers, with the path as the list has it. At the
    end ``manifest.json`` has the lines, the failures and the SHA-256 of each part, and ``failed.txt`` lists
    what could not be read. Parts that are there are not done again.

    Args:
        list_path: A text file with a path a line; see :func:`~nonlocalnn.bulk.path_list.index_list`.
        output_folder: Where the results go; made where it is missing.
        model: A checkpoint, or the folder of a run (its best weights).
        root: What paths are relative to; by default the list's folder.
        top: How many classes to report, at most K.
        views: Of videos: 1, the clip in the middle (default), or 30, 10 clips x 3 crops.
        batch_size: Images, or views of videos, a forward pass; by default 64 images or 8 views.
        precision: "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda" or "cuda:N".
        shard_size: Paths of a part.
        num_workers: Processes that read files ahead; 0 reads in this one.
        rank: This process's number, 0 to ``world_size`` - 1. It only says where to begin.
        world_size: Number of processes.
        watch: Takes an iterator over the number of lines done so far, by all processes, and the number in
            the list, and gives the former back one by one, to show how far it is.

    Raises:
        FileNotFoundError: The list, the root or the model does not exist.
        CheckpointError: The model's file does not fit, or does not say which samples it takes.
        ValueError: A setting is out of range or has no effect; the list names no path or changes meanwhile;
            or the folder holds results of another list, model or setting, or parts that were changed.

    Memory: 12 bytes a part, and some 50 bytes a line while the list is read; the files of 2 batches a reading
        process, of one at least.

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
        >>> found.lines, found.unfinished, found.failed
        (2, 0, 1)
        >>> sorted(path.name for path in (folder / "out").glob("[!.]*"))
        ['failed.txt', 'manifest.json', 'part-000000.jsonl']
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1; got rank {rank} of {world_size}")
    list_path = Path(list_path)
    root = Path(list_path.parent if root is None else root).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"paths of the list are relative to {root}, and there is no such folder")
    asker, weights = _asker(model, top, views, batch_size, precision, device)
    listed = index_list(list_path, part_size=shard_size)
    folder = OutputFolder(Path(output_folder), listed, _describe_run(listed, root, asker, weights))
    folder.path.mkdir(parents=True, exist_ok=True)
    with Claims(folder.path / ".claims") as claims:
        folder.open(claims)
        done = _work(folder, claims, asker, root, num_workers, _order(listed.parts, rank, world_size, claims))
        for _ in done if watch is None else watch(done, listed.lines):
            pass
        unfinished, failed = folder.finish(claims)
    return BulkResult(
        listed.lines,
        listed.blank,
        listed.repeated,
        unfinished,
        failed,
        folder.failures,
        asker.classifier.assumptions,
    )


def _asker(
    model: str | os.PathLike[str],
    top: int,
    views: int | None,
    batch_size: int | None,
    precision: Precision,
    device: str,
) -> tuple[Asker, str]:
    """Return the classifier with its settings checked, and the SHA-256 of its file."""
    file = weights_file(model)
    classifier = load_classifier(file)
    classifier.model.to(resolve_device(device))
    if classifier.takes_videos and views is None:
        views = 1
    # Asked about nothing, it checks what it is asked with.
    for _ in classifier.predict_many([], top=top, views=views, batch_size=batch_size, precision=precision):
        pass
    autocast_for(precision, classifier.device)
    if batch_size is None:
        batch_size = 8 if classifier.takes_videos else 64
    with file.open("rb") as opened:
        weights = hashlib.file_digest(opened, "sha256").hexdigest()
    return Asker(classifier, top=top, views=views, batch_size=batch_size, precision=precision), weights


def _describe_run(listed: PathList, root: Path, asker: Asker, weights: str) -> dict[str, Any]:
    """Return what the results depend on, but for the files themselves and the last bits of a processor."""
    return {
        "list": {
            "sha256": listed.sha256,
            "root": str(root),
            "lines": listed.lines,
            "blank": listed.blank,
            "repeated": listed.repeated,
        },
        "model": {"sha256": weights},
        "settings": {
            "shard_size": listed.part_size,
            "top": asker.top,
            "views": asker.views,
            "batch_size": asker.batch_size,
            "precision": asker.precision,
            "device": asker.classifier.device.type,
        },
        "nonlocalnn": {"version": nonlocalnn.__version__},
    }


def _order(parts: int, rank: int, world_size: int, claims: Claims) -> list[int]:
    """Return which parts a process looks at, one after another: its share, then that of others.

    Those of others from the last on: where two processes do not see each other's claims, and the file system
    does not say so, they meet late.
    """
    own = range(rank, parts, world_size)
    if not claims.work:
        return list(own)
    return [*own, *(part for part in reversed(range(parts)) if part % world_size != rank)]


def _work(
    folder: OutputFolder, claims: Claims, asker: Asker, root: Path, num_workers: int, order: Iterable[int]
) -> Iterator[int]:
    """Do the parts that nobody has done or is doing; yield the lines done so far, by all processes."""
    listed = folder.listed
    batches: deque[tuple[int, list[str]]] = deque()

    def take() -> Iterator[list[str]]:
        """Yield the paths of a batch; reading ahead, it is asked for parts before the former are done."""
        for part in order:
            if not claims.take(part):
                continue
            # Looked at once it is claimed: before that, another process might still finish it.
            if folder.is_finished(part):
                claims.give_back(part)
                continue
            names = listed.read(part)
            for start in range(0, len(names), asker.files_a_batch):
                batch = names[start : start + asker.files_a_batch]
                batches.append((part, batch))
                yield [os.path.join(root, name) for name in batch]

    finished = folder.finished_lines()
    yield finished
    answers: list[dict[str, Any]] = []
    written, count_every = 0, max(1, listed.parts // _COUNTS)
    for answered in asker.ask(take(), num_workers=num_workers):
        part, names = batches.popleft()
        answers += [{"path": name, **answer} for name, answer in zip(names, answered, strict=True)]
        if len(answers) < listed.size(part):
            yield finished + len(answers)
            continue
        folder.write(part, answers)
        answers = []
        claims.give_back(part)
        written += 1
        # Listing a folder takes as long as it has files.
        finished = finished + listed.size(part) if written % count_every else folder.finished_lines()
        yield finished
