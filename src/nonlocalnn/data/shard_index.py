"""Where the images of a tar archive lie in it, and which classes they have.

An archive's headers are read once. What they say is kept beside it, in ``train-000000.tar.index.json``, until
its size or its time of change is another.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from nonlocalnn._files import write_text
from nonlocalnn.data.images import IMAGE_SUFFIXES

_FORMAT = 1
_LABELS = (".cls", ".json")
_LARGEST_LABEL = 1 << 20
_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """Where an image lies in an archive.

    Args:
        key: Name of the sample in the archive.
        start: Its first byte.
        size: Its bytes.
        label: Number or name of its class.
    """

    key: str
    start: int
    size: int
    label: int | str


def read_index(path: Path) -> list[Member]:
    """Return the samples of an archive in their order, from the index beside it where that is up to date.

    Where the folder cannot be written the index is made each time.

    Args:
        path: The archive.

    Raises:
        ValueError: The archive is cut, damaged or compressed, or a sample lacks its image or its label.
    """
    facts = path.stat()
    about = {"format": _FORMAT, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    index = path.with_name(f"{path.name}.index.json")
    # An index is only a shortcut: whatever is wrong with it, the archive knows.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(index.read_text(encoding="utf-8"))
        if {name: kept[name] for name in about} == about:
            return [Member(**each) for each in kept["samples"]]
    members = list(_index(path))
    with contextlib.suppress(OSError):
        write_text(index, json.dumps({**about, "samples": [asdict(each) for each in members]}))
    return members


def _index(path: Path) -> Iterator[Member]:
    """Yield the samples of an archive; raises as :func:`read_index` does."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int | str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for header in _files(path, tar):
                name = PurePosixPath(header.name).name
                ending = name[len(name.partition(".")[0]) :]
                key, suffix = header.name.removesuffix(ending), ending.lower()
                if suffix in IMAGE_SUFFIXES:
                    if key in images:
                        raise ValueError(f"{path} must hold one image for each key; {key!r} has several")
                    images[key] = header
                elif suffix in _LABELS:
                    label = _label(path, tar, header)
                    if label is not None:
                        # Beside a .cls what a .json says is of no account, whichever comes first.
                        labels[key] = labels.get(key, label) if suffix == ".json" else label
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole, uncompressed tar archive: {error}") from error
    for key in {**images, **labels}:
        if key not in images or key not in labels:
            lacks = "its class, a .cls or .json" if key in images else "its image"
            raise ValueError(f"{path}/{key} lacks {lacks} of the same key in the same archive")
    for key, header in images.items():
        yield Member(key, header.offset_data, header.size, labels[key])


def _files(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of an archive, each of which lies in it as a whole, and check that it has an end."""
    end = 0
    for header in tar:
        end = header.offset_data + (0 if not header.isreg() else -(-header.size // _BLOCK) * _BLOCK)
        # tarfile notices a size that leads past the end, and would go round for ever by a negative one.
        if header.size < 0:
            raise tarfile.ReadError(f"{header.name!r} has the size {header.size}")
        if header.issparse():
            raise tarfile.ReadError(f"{header.name!r} is stored as a sparse file")
        if header.isreg() and PurePosixPath(header.name).name[:1] not in ("", "."):
            yield header
    # tarfile takes a damaged header for the end; a real one is a block of zeros.
    with path.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"it is cut or damaged at byte {end}")


def _label(path: Path, tar: tarfile.TarFile, header: tarfile.TarInfo) -> int | str | None:
    """Return the number or name of a class; None where a JSON file says nothing of it."""
    if header.size > _LARGEST_LABEL:
        raise ValueError(f"{path}/{header.name} must be at most {_LARGEST_LABEL} bytes; it is {header.size}")
    file = tar.extractfile(header)
    assert file is not None, "it is a regular file"
    content = file.read()
    try:
        text = content.decode("utf-8").strip()
        if header.name.lower().endswith(".cls"):
            return int(text) if re.fullmatch(r"\d{1,18}", text) else text
        label = json.loads(text).get("label")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}/{header.name} holds no label: {error}") from error
    if label is None or isinstance(label, str) or type(label) is int:
        return label
    raise ValueError(f'{path}/{header.name} must have a number or a name as "label"; got {label!r}')
