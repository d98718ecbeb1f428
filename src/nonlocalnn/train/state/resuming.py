"""Whether a folder holds a run, where that run has come to, and its state as it is read."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from nonlocalnn._errors import one_line
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.checkpoints.state import check_zip
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.state import checkpoint as names
from nonlocalnn.train.state.checkpoint import TrainingState, fingerprint, reason_of
from nonlocalnn.train.state.old_file import read_old_state

Resume = bool | Literal["if any"]


_METADATA = "torch.distributed.checkpoint.metadata"
# What the description of the tensors is made of; nothing else that its pickle names is looked up.
_PICKLED = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
}


def state_to_resume(folder: Path, group: Group, resume: Resume) -> TrainingState | None:
    """Return the state from which a run goes on; None where it begins. Every rank must call this.

    Args:
        folder: The run's folder.
        group: The processes of the run.
        resume: Whether to go on with the run in ``folder``; "if any" asks the main rank whether there is one.

    Raises:
        ValueError: There is a run, and ``resume`` is False; or only its results, and it is not True.
        FileNotFoundError: There is no run, or only its results, and ``resume`` is True.
        CheckpointError: No state there is whole.
    """
    # A file system that several machines share may not show all of them the same at once.
    has_state = group.agree(bool(state_names(folder)))
    if resume and (has_state or resume is True):
        return read_state(folder, group)
    if has_state:
        raise ValueError(f"{folder} already holds a run: use --resume to go on, or another --output")
    if left := _results(folder):
        raise ValueError(_no_state(folder, left))
    return None


def _results(folder: Path) -> list[str]:
    """Return the names of the results in a folder that a run leaves beside its states."""
    return [name for name in ("best.safetensors", "metrics.json") if (folder / name).exists()]


def _no_state(folder: Path, left: list[str]) -> str:
    """Return why a run cannot be gone on with, nor begun in its place."""
    # One answer whatever the flag: nothing says where to go on, and beginning would lose what is left.
    return (
        f"{folder} holds {' and '.join(left)} of a run, and no run to resume: {names.NEWEST} and "
        f"{names.PREVIOUS} are missing; bring one of the two back, or take another --output to begin anew"
    )


def state_names(folder: Path) -> list[str]:
    """Return the names of states in a run's folder, the newest first; none where there is no state."""
    pairs = ((names.NEWEST, names.PREVIOUS), names.OLD)
    return [name for pair in pairs if any((folder / each).exists() for each in pair) for name in pair]


def read_state(folder: Path, group: Group) -> TrainingState:
    """Return the newest whole state in ``folder``; every rank must call this.

    A damaged or missing state gives a warning, and the one before it is read.

    Args:
        folder: The run's folder.
        group: The processes that go on with it, in any number; they share the checking.

    Raises:
        FileNotFoundError: There is no state.
        CheckpointError: No state there is whole.
    """
    # A file system that several machines share may not show all of them the same at once.
    found = group.gather_names(state_names(folder) if group.is_main else [])
    if not found:
        left = _results(folder)
        nothing = f"there is no run to resume in {folder}: {names.NEWEST} is missing"
        raise FileNotFoundError(_no_state(folder, left) if left else nothing)
    problems: list[str] = []
    for path in (folder / name for name in found):
        problem, state = _read(path, group)
        if state is not None:
            if problems and group.is_main:
                warnings.warn(f"{problems[0]}; going on from the older {path}", UserWarning, stacklevel=2)
            return state
        problems.append(problem)
    raise CheckpointError("; ".join(problems))


def remove_newer(state: TrainingState) -> None:
    """Remove the damaged states in whose place ``state`` was read.

    The next save would keep one as the one before, and remove the only whole one for that. One rank calls
    this, once all have read what they need.
    """
    folder = state.path.parent
    for name in takewhile(lambda each: folder / each != state.path, state_names(folder)):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def read_tensors(
    folder: Path, like: Callable[[str, torch.Size, torch.dtype], Tensor], group: Group | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a state, by name; every rank of the group must call this.

    Args:
        folder: The state's folder.
        like: Returns, for a name, shape and type, the tensor to read into: sharded in any way.
        group: The processes that read; None is this one.

    Raises:
        CheckpointError: They cannot be read.
    """
    reader = _Reader(folder)
    described = reader.read_metadata().state_dict_metadata
    tensors = {
        name: like(name, each.size, each.properties.dtype)
        for name, each in described.items()
        if isinstance(each, TensorStorageMetadata)
    }
    alone = group is None or not group.is_joined
    try:
        with warnings.catch_warnings(action="ignore") if alone else nullcontext():
            load(tensors, storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        raise reason_of(error, CheckpointError, f"{folder} cannot be read") from error
    return tensors


def _read(path: Path, group: Group) -> tuple[str, TrainingState | None]:
    """Return what is wrong with a state on any rank; or "" and the state."""
    problem, state = "", None
    try:
        state = read_old_state(path) if path.name in names.OLD else _read_folder(path, group)
    except CheckpointError as error:
        problem = str(error)
    except FileNotFoundError as error:
        problem = f"{path} is not whole: {Path(error.filename).name} is missing"
    except Exception as error:  # what a damaged file raises depends on the damage
        problem = f"{path} is damaged: {one_line(error)}"
    # A rank that went on alone from another state than the others would train another network.
    problems = [each for each in group.gather_names([problem]) if each]
    return (problems[0], None) if problems else ("", state)


def _read_folder(folder: Path, group: Group) -> TrainingState:
    manifest = json.loads((folder / names.MANIFEST).read_text(encoding="utf-8"))
    if manifest["format"] != names.FORMAT:
        raise CheckpointError(f"{folder} is not a training state of format {names.FORMAT}")
    # The ranks share the checking.
    for name, facts in sorted(manifest["files"].items())[group.rank :: group.world_size]:
        if fingerprint(folder / name) != facts:
            raise CheckpointError(f"{folder} is damaged: the checksum of {name} is wrong")
    return TrainingState.from_values(manifest, folder)


class _Reader(FileSystemReader):
    """Reads the tensors, and the pickle that describes them, without running what it names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                metadata = _Unpickler(file).load()
        except Exception as error:  # what a damaged pickle raises is anybody's guess
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def _slice_file(self, file: IO[bytes], place: Any) -> IO[bytes]:
        path = Path(self.path) / place.relative_path
        part = io.BytesIO(super()._slice_file(file, place).read())
        if not zipfile.is_zipfile(part):
            raise CheckpointError(f"{path} holds what torch.save did not write")
        check_zip(path, part)
        part.seek(0)
        return part


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module, name) in _PICKLED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
