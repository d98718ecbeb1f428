"""The state of a sharded run: a folder that all ranks write, in the background, and any number can read."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from nonlocalnn._files import write_text
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.state.checkpoint import TrainingState

_FORMAT = 1
_NEWEST, _PREVIOUS, _UNFINISHED = "last", "last.previous", "last.new"
_MANIFEST = "manifest.json"
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


def has_sharded_state(folder: Path) -> bool:
    """Return whether ``folder`` holds the state of a sharded run, whole or not."""
    return any((folder / name).is_dir() for name in (_NEWEST, _PREVIOUS))


class ShardedWriter:
    """Writes the states of a sharded run while the training goes on.

    A state is written to ``last.new/``; once it is whole, the one before it becomes ``last.previous/`` and it
    becomes ``last/``. At every moment one of the two names is a whole state.

    Args:
        folder: The run's folder.
        group: The processes of the run.
    """

    def __init__(self, folder: Path, group: Group) -> None:
        self._folder = folder
        self._group = group
        # Exchanges of the background must not meet those of the training.
        self._ranks = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def start(
        self, state: TrainingState, tensors: dict[str, Tensor], *, then: Callable[[], None] | None = None
    ) -> None:
        """Begin to write a state, when the one before it is written; every rank must call this.

        Args:
            state: All but the tensors.
            tensors: Of this rank, by name; copied before this returns.
            then: Called by the main rank once the state is in its place.

        Raises:
            OSError: The state before this one could not be written.
        """
        self.finish()
        unfinished = self._folder / _UNFINISHED
        if self._group.is_main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._group.barrier()
        written = async_save(tensors, storage_writer=FileSystemWriter(unfinished), process_group=self._ranks)
        assert isinstance(written, Future)
        self._pending = self._thread.submit(self._complete, written, state, then)

    def finish(self) -> None:
        """Wait until the state under way is in its place.

        Raises:
            OSError: It could not be written; the states before it are still there.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for what is under way, whatever becomes of it, and for the thread."""
        self._thread.shutdown(wait=True)

    def _complete(
        self, written: Future[Metadata], state: TrainingState, then: Callable[[], None] | None
    ) -> None:
        unfinished = self._folder / _UNFINISHED
        try:
            written.result()
        except CheckpointException as error:  # no Exception, as PyTorch has it
            raise OSError(f"the state could not be written to {unfinished}: {error}") from error
        rank = self._group.rank
        own = {path.name: _fingerprint(path) for path in unfinished.glob(f"__{rank}_*")}
        files = {name: facts for each in self._exchange(own) for name, facts in each.items()}
        failure = ""
        if self._group.is_main:
            try:
                self._put_in_place(state, files)
                if then is not None:
                    then()
            except Exception as error:  # the other ranks wait to hear of it, whatever it is
                failure = f"{type(error).__name__}: {error}"
        failure = self._exchange(failure)[0]
        if failure:
            raise OSError(f"the state could not be put into {self._folder}: {failure}")

    def _exchange(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self._group.world_size
        dist.all_gather_object(values, value, group=self._ranks)
        return values

    def _put_in_place(self, state: TrainingState, files: dict[str, list[int]]) -> None:
        newest, previous, unfinished = (self._folder / name for name in (_NEWEST, _PREVIOUS, _UNFINISHED))
        manifest = {
            "format": _FORMAT,
            **state.to_values(),
            "files": {**files, ".metadata": _fingerprint(unfinished / ".metadata")},
        }
        # Last of all: a folder with a manifest is a whole one.
        write_text(unfinished / _MANIFEST, json.dumps(manifest))
        if newest.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(newest, previous)
        os.replace(unfinished, newest)


def read_sharded_state(folder: Path, group: Group) -> TrainingState:
    """Return the newest whole state in ``folder`` without its tensors; every rank must call this.

    A damaged or missing ``last/`` gives a warning, and ``last.previous/`` is read. The state's ``learner``
    then says in which folder the tensors are, for :func:`read_tensors`.

    Args:
        folder: The run's folder.
        group: The processes that go on with it, in any number; they share the checking.

    Raises:
        CheckpointError: No state there is whole.
    """
    newest, previous = (folder / name for name in (_NEWEST, _PREVIOUS))
    try:
        return _read(newest, group)
    except CheckpointError as error:
        if not previous.exists():
            raise
        reason = error
    state = _read(previous, group)
    if group.is_main:
        warnings.warn(f"{reason}; going on from the older {previous}", UserWarning, stacklevel=2)
    return dataclasses.replace(state, instead_of=newest)


def read_tensors(folder: Path, like: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state, by name; every rank must call this.

    Args:
        folder: The state's folder.
        like: Returns, for a name, shape and type, the tensor to read into: sharded in any way.

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
    try:
        load(tensors, storage_reader=reader)
    except CheckpointException as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    return tensors


def _fingerprint(path: Path) -> list[int]:
    """Return the size of a file in bytes and its CRC-32."""
    size = checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return [size, checksum]


def _read(folder: Path, group: Group) -> TrainingState:
    problem, manifest = "", {}
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files = sorted(manifest["files"].items())
        for name, facts in files[group.rank :: group.world_size]:
            if _fingerprint(folder / name) != facts:
                problem = f"{folder} is damaged: the checksum of {name} is wrong"
    except FileNotFoundError as error:
        problem = f"{folder} is not whole: {Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        problem = f"{folder} is damaged: {_MANIFEST} cannot be read: {error}"
    # A rank that went on alone from another state than the others would train another network.
    problems = [each for each in group.gather_names([problem]) if each]
    if problems:
        raise CheckpointError(problems[0])
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{folder} is not a sharded training state of format {_FORMAT}")
    state = TrainingState.from_values(manifest, folder / _MANIFEST)
    return dataclasses.replace(state, learner={**state.learner, "folder": folder})


class _Reader(FileSystemReader):
    """Reads the description of the tensors, a pickle, without running what it names."""

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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module, name) in _PICKLED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
