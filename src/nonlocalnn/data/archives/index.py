"""Where the images or videos of tar archives lie in them, and which classes they have.

A folder holds ``classes.txt``, a class name a line, and for each split archives that are numbered from 0::

    data_dir/classes.txt    data_dir/train-000000.tar    data_dir/train-000001.tar    data_dir/test-000000.tar

An archive holds for each sample an image or a video, such as ``a/0001.jpg``, and its class: ``a/0001.cls``,
the number of the class from 0 or its name, or ``a/0001.json``, an object with the same as "label". What the
two have in common up to the first dot of the file's name is the sample's key. Other members are left alone.

An archive's headers are read once. What they say is kept beside it, in ``train-000000.tar.index.json``, until
its size or its time of change is another.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from nonlocalnn._errors import near_miss
from nonlocalnn._files import write_text
from nonlocalnn.data.class_names import read_class_names
from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES

CLASSES = "classes.txt"
# What archives may hold, and how the names of such files end.
KINDS = {"images": IMAGE_SUFFIXES, "videos": VIDEO_SUFFIXES}
_NAMES = {"images": "'archives'", "videos": "'videos'"}
_FORMAT = 1
_LABELS = (".cls", ".json")
_LARGEST_LABEL = 1 << 20
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file that lies in an archive as it is: some bytes of a larger file.

    It stands where a path may; as text it is the archive's path and its name there.

    Args:
        archive: The larger file.
        name: Name of the file in it.
        start: Its first byte.
        size: Its bytes.

    Example:
        >>> str(ArchivedFile(Path("clips/train-000000.tar"), "00000003.mp4", start=1536, size=40960))
        'clips/train-000000.tar/00000003.mp4'
    """

    archive: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def exists(self) -> bool:
        """Return whether its archive is there."""
        return self.archive.exists()

    def read(self) -> bytes:
        """Return its bytes, in one reading.

        Raises:
            OSError: The archive is not there, cannot be read, or is shorter than it was.

        Memory: ``size`` bytes.
        """
        try:
            with self.archive.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                # Asked first: memory is reserved for what is to be read before it is.
                if length < self.start + self.size:
                    raise OSError(
                        f"it should end at byte {self.start + self.size} of its archive, which has {length}: "
                        "the archive is cut, or was changed while it was in use; write or fetch it again"
                    )
                # All at once: a clip is a few MB, and one sequential read suits network file systems.
                file.seek(self.start)
                return file.read(self.size)
        except FileNotFoundError as error:
            raise OSError("its archive is not there") from error


@dataclass(frozen=True)
class Member:
    """Where an image or a video lies in an archive.

    Args:
        key: Name of the sample in the archive.
        suffix: What follows the key in the name of the file.
        start: Its first byte.
        size: Its bytes.
        label: Number or name of its class.
    """

    key: str
    suffix: str
    start: int
    size: int
    label: int | str

    def within(self, archive: Path) -> ArchivedFile:
        """Return it as a file of an archive."""
        return ArchivedFile(archive, f"{self.key}{self.suffix}", self.start, self.size)


def find_archives(root: Path, split: str) -> dict[int, Path]:
    """Return the archives of a split by their numbers, perhaps none.

    Raises:
        ValueError: Two have the same number, such as train-1.tar and train-000001.tar.
    """
    found: dict[int, Path] = {}
    for path in sorted(root.glob(f"{split}-*.tar")):
        number = re.fullmatch(rf"{split}-(\d+)\.tar", path.name)
        if number is None:
            continue
        if int(number[1]) in found:
            twin = found[int(number[1])].name
            raise ValueError(f"{root} must hold one archive of each number; it has {twin} and {path.name}")
        found[int(number[1])] = path
    return found


def read_split(
    root: Path, split: str, *, kind: str
) -> tuple[tuple[str, ...], list[tuple[Path, Member, int]]]:
    """Return the names of the classes, and of each sample its archive, its place there and its class.

    Samples come in the order of the archives' numbers, and in an archive as they lie.

    Args:
        root: The folder of archives.
        split: What their names begin with.
        kind: One of ``KINDS``.

    Raises:
        FileNotFoundError: The folder, its ``classes.txt`` or an archive is missing.
        ValueError: As :func:`read_index`; there is no sample; a label is no class; or ``classes.txt`` is no
            list of names.
    """
    classes = _read_classes(root / CLASSES)
    numbers = {name: number for number, name in enumerate(classes)}
    samples = [
        (path, member, _target(path, member, numbers))
        for path in _archive_paths(root, split)
        for member in read_index(path, kind=kind)
    ]
    if not samples:
        raise ValueError(f"{root} must hold {kind} in its archives of {split!r}; they hold none")
    return classes, samples


def read_index(path: Path, *, kind: str) -> list[Member]:
    """Return the samples of an archive in their order, from the index beside it where that is up to date.

    Where the folder cannot be written the index is made each time.

    Raises:
        ValueError: The archive is cut, damaged or compressed, a sample lacks its file or its label, or it
            holds the other kind.
    """
    # With an index samples can be read in any order, so that shuffling and resuming work as with folders.
    facts = path.stat()
    about = {"format": _FORMAT, "kind": kind, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    index = path.with_name(f"{path.name}.index.json")
    # An index is only a shortcut: whatever is wrong with it, the archive knows.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(index.read_text(encoding="utf-8"))
        if {name: kept[name] for name in about} == about:
            return [Member(**each) for each in kept["samples"]]
    members = list(_index(path, kind))
    with contextlib.suppress(OSError):
        write_text(index, json.dumps({**about, "samples": [asdict(each) for each in members]}))
    return members


def _index(path: Path, kind: str) -> Iterator[Member]:
    """Yield the samples of an archive; raises as :func:`read_index` does."""
    found: dict[str, tuple[str, tarfile.TarInfo]] = {}
    labels: dict[str, int | str] = {}
    kinds: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for header in _files(path, tar):
                name = PurePosixPath(header.name).name
                ending = name[len(name.partition(".")[0]) :]
                key, suffix = header.name.removesuffix(ending), ending.lower()
                if suffix in KINDS[kind]:
                    if key in found:
                        one = kind.removesuffix("s")
                        raise ValueError(f"{path} must hold one {one} for each key; {key!r} has several")
                    found[key] = (ending, header)
                elif suffix in _LABELS:
                    label = _label(path, tar, header)
                    if label is not None:
                        # Beside a .cls what a .json says is of no account, whichever comes first.
                        labels[key] = labels.get(key, label) if suffix == ".json" else label
                kinds.update(each for each, suffixes in KINDS.items() if suffix in suffixes)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole, uncompressed tar archive: {error}") from error
    _check_complete(path, kind, found, labels, kinds)
    for key, (ending, header) in found.items():
        yield Member(key, ending, header.offset_data, header.size, labels[key])


def _check_complete(
    path: Path, kind: str, found: Mapping[str, object], labels: Mapping[str, object], kinds: set[str]
) -> None:
    """Check that samples are of the kind that is asked for, and that each has its file and its class."""
    if kinds and not found:
        other = kinds.pop()
        raise ValueError(f"{path} must hold {kind}; it holds {other}: load it as {_NAMES[other]}")
    for key in {**found, **labels}:
        if key not in found or key not in labels:
            lacks = "its class, a .cls or .json" if key in found else f"its {kind.removesuffix('s')}"
            raise ValueError(f"{path}/{key} lacks {lacks} of the same key in the same archive")


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


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of archives; there is no folder {path.parent}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: write a class name a line into it, in the order of their numbers; or, where "
            "archives are being written, let that end"
        )
    return tuple(read_class_names(path))


def _archive_paths(root: Path, split: str) -> list[Path]:
    found = find_archives(root, split)
    if not found:
        raise FileNotFoundError(f"{root} holds no archive of {split!r}, such as {split}-000000.tar")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise FileNotFoundError(
            f"{root} lacks archive {missing[0]} of {split!r}: they are numbered from 0 to {max(found)}"
        )
    return [found[number] for number in sorted(found)]


def _target(path: Path, member: Member, numbers: Mapping[str, int]) -> int:
    label = member.label
    target = numbers.get(label) if isinstance(label, str) else label
    if target is None or not 0 <= target < len(numbers):
        hint = near_miss(label, numbers)
        raise ValueError(
            f"{path}/{member.key} has the label {label!r}, which is none of the {len(numbers)} classes of "
            f"{CLASSES}{hint}"
        )
    return target
