"""Putting images or videos into tar archives, see :mod:`nonlocalnn.data.archives.index`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from nonlocalnn._errors import check_choice
from nonlocalnn._files import atomic_path, read_text, remove_parts, write_text
from nonlocalnn._names import SPLITS
from nonlocalnn.data.archives.index import CLASSES, KINDS, ArchivedFile, read_index
from nonlocalnn.data.folder_files import VIDEO_SUFFIXES
from nonlocalnn.data.image_folders import load_image_folder
from nonlocalnn.data.video.named import load_own_splits

# Stands in the folder while archives are written, and says which.
_BEGUN = "writing.json"


def write_archives(
    data_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    kind: str = "images",
    samples_per_archive: int = 1000,
    watch: Callable[[Sequence[Path]], Iterable[Path]] | None = None,
) -> dict[str, int]:
    """Write images or videos as archives, see :mod:`nonlocalnn.data.archives.index`.

    The files are taken as they are, in the order of their data set, one after another. Images come from a
    folder with a sub-folder a class, with the splits that :mod:`nonlocalnn.data.images` describes; videos
    from what the data set ``videos`` lists, in the splits that are there. Called again after it was stopped,
    it goes on with the archives that are missing, and of a finished set it leaves all as they are.
    ``classes.txt`` is written last, so that none is read before all are there.

    Args:
        data_dir: The folder of images, or of videos or their lists.
        output: The folder for the archives; made where it is missing.
        kind: ``"images"`` or ``"videos"``.
        samples_per_archive: Images or videos an archive; the last one of a split may have fewer.
        watch: Takes the paths of the archives that are missing and gives them back one by one, to show how
            far it is.

    Returns:
        Samples a split.

    Raises:
        ValueError: ``kind`` is unknown, ``samples_per_archive`` is below 1, ``output`` is ``data_dir`` or
            holds other archives, or what is to be written is not in order: folders of images lack a split, a
            video is a folder of frames, lies in an archive or has another ending than videos have.
        FileNotFoundError: ``data_dir`` is not a folder, holds no split, or a listed video is missing.
    """
    check_choice("kind", kind, tuple(KINDS))
    if samples_per_archive < 1:
        raise ValueError(f"samples_per_archive must be at least 1; got {samples_per_archive}")
    source, target = Path(data_dir), Path(output)
    if source.resolve() == target.resolve():
        raise ValueError(f"output must be another folder than data_dir, {source}: choose another output")
    classes, splits = (_images if kind == "images" else _videos)(source)
    plan = {
        target / f"{split}-{start // samples_per_archive:06d}.tar": (split, start)
        for split, samples in splits.items()
        for start in range(0, len(samples), samples_per_archive)
    }
    listed = [
        (os.path.relpath(path, source), label) for samples in splits.values() for path, label in samples
    ]
    counts = {split: len(samples) for split, samples in splits.items()}
    parts = {
        path: splits[split][start : start + samples_per_archive] for path, (split, start) in plan.items()
    }
    if _is_whole(target, classes, kind, [(path, part, plan[path][1]) for path, part in parts.items()]):
        return counts
    _begin(target, [kind, classes, [str(path.name) for path in plan], listed])
    missing = [path for path in plan if not path.exists()]
    for path in missing if watch is None else watch(missing):
        _write_archive(path, parts[path], first=plan[path][1])
    write_text(target / CLASSES, "".join(f"{name}\n" for name in classes))
    (target / _BEGUN).unlink()
    return counts


def _images(source: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """Return the classes, and the files of each split and their classes."""
    classes: tuple[str, ...] = ()
    splits = {}
    for split in SPLITS:
        images = load_image_folder(source, split)
        classes = images.classes
        splits[split] = [(Path(images.sample_id(place)), each) for place, each in enumerate(images.targets)]
    return classes, splits


def _videos(source: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """Return the same of videos."""
    found = load_own_splits(source)
    classes = {videos.classes for videos in found.values()}
    if len(classes) > 1:
        raise ValueError(f"the splits of {source} must have the same classes; {', '.join(found)} differ")
    splits = {}
    for split, videos in found.items():
        labels = [label for (label,) in videos.target_sets]
        splits[split] = [(_file(path), label) for path, label in zip(videos.paths, labels, strict=True)]
    return classes.pop(), splits


def _file(path: Path | ArchivedFile) -> Path:
    if isinstance(path, ArchivedFile):
        raise ValueError(f"videos must be files of their own; {path} lies in an archive already")
    if path.is_dir():
        raise ValueError(f"videos must be files; {path} is a folder of frames: encode it, or leave it out")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"videos must end in {', '.join(VIDEO_SUFFIXES)}; got {path}: rename it")
    if not path.exists():
        raise FileNotFoundError(f"no such video: {path}; take it off its list")
    return path


def _is_whole(
    target: Path,
    classes: Sequence[str],
    kind: str,
    parts: Sequence[tuple[Path, Sequence[tuple[Path, int]], int]],
) -> bool:
    """Return whether a folder holds the finished set, by the classes, places and sizes of all samples.

    Args:
        target: The folder.
        classes: Names of the classes.
        kind: "images" or "videos".
        parts: Of each archive its path, its samples, and the number of the first.
    """
    names = target / CLASSES
    if not names.is_file() or read_text(names).splitlines() != list(classes):
        return False
    if set(target.glob("*-*.tar")) != {path for path, _, _ in parts}:
        return False
    for path, samples, first in parts:
        found = [
            (member.key, member.suffix, member.size, member.label) for member in read_index(path, kind=kind)
        ]
        if found != [
            (f"{number:08d}", source.suffix.lower(), source.stat().st_size, label)
            for number, (source, label) in enumerate(samples, start=first)
        ]:
            return False
    return True


def _begin(target: Path, plan: object) -> None:
    """Note what is to be written, so that it can be gone on with."""
    note = json.dumps({"sha256": hashlib.sha256(json.dumps(plan).encode()).hexdigest()})
    begun = target / _BEGUN
    is_begun = begun.is_file() and begun.read_text(encoding="utf-8") == note
    if not is_begun and any(target.glob("*-*.tar")):
        # Archives of before would count as part of the new set.
        raise ValueError(
            f"{target} must hold no archives yet, or some that the same call began: choose another output"
        )
    remove_parts(target)
    (target / CLASSES).unlink(missing_ok=True)
    write_text(begun, note)


def _write_archive(path: Path, samples: Sequence[tuple[Path, int]], *, first: int) -> None:
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
        for number, (source, target) in enumerate(samples, start=first):
            with source.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                _add(tar, f"{number:08d}{source.suffix.lower()}", file, size=size)
            label = str(target).encode()
            _add(tar, f"{number:08d}.cls", io.BytesIO(label), size=len(label))


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, *, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    tar.addfile(header, content)
