"""State dicts of files of torch.save and of pickles, read without running what a file holds."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from nonlocalnn._errors import one_line
from nonlocalnn._files import kind_of_beginning
from nonlocalnn.checkpoints import restricted_pickle
from nonlocalnn.checkpoints.entries import entries_of, weights_in
from nonlocalnn.checkpoints.other_files import (
    check_is_file,
    distributed_in_words,
    is_distributed,
    kind_of_zip,
)
from nonlocalnn.checkpoints.torch_files import read_with_placeholders, with_checksums

State = dict[str, Tensor]

_ZIP_BEGINS = b"PK\x03\x04"
# A zip file, and what torch.save wrote before it wrote those: a number of its own, pickled.
_TORCH_BEGINS = re.compile(
    re.escape(_ZIP_BEGINS) + rb"|\x80[\x02-\x05](?:\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL
)
# Caffe2's momentum and counters.
_OF_TRAINING = re.compile(r"_momentum$|^(lr|model_iter|epoch)$")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model; the message says what is wrong."""


def read_weights(path: Path, entry: str | None = None, *, refusal: str = "") -> tuple[State, object]:
    """Read the state dict of a pickle: a file of ``torch.save``, or Python 2's with NumPy arrays.

    Objects that a file of ``torch.save`` holds beside its weights are left out; their classes are neither
    imported nor called. A pickle of arrays may hold arrays and plain containers only.

    Args:
        path: The file.
        entry: The entry that holds the weights; None goes by the names of entries, and leaves others out.
        refusal: Why it could not be read as safetensors, which it may be nevertheless.

    The file is opened once, so that all of it is of one file even where another takes its place meanwhile.

    Returns:
        The state dict, and all that the file holds.

    Raises:
        CheckpointError: The file is damaged, asks for functions of the system, or holds no state dict that
            ``entry`` or the rule of :func:`~nonlocalnn.checkpoints.entries.weights_in` finds.
    """
    check_is_file(path)
    if is_distributed(path):
        raise CheckpointError(f"{path} is a part of {distributed_in_words(path.parent)}")
    with path.open("rb") as file:
        beginning = file.read(512)
        file.seek(0)
        _check_beginning(beginning, path)
        if begins_as_safetensors(beginning):
            raise CheckpointError(f"{path} is damaged: {refusal}")
        is_of_torch = _TORCH_BEGINS.match(beginning) is not None
        if path.suffix == ".safetensors" and not is_of_torch:
            raise CheckpointError(
                f"{path} is not a safetensors file, though it is named so, or is cut: save or fetch it again"
            )
        whole = _read_torch(file, path) if is_of_torch else _read_arrays(file.read(), path)
        num_bytes = file.seek(0, io.SEEK_END)
    try:
        content = weights_in(whole, path, entry)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path} holds {_kind(content)}, not a state dict, names and tensors: load it where you trust "
            "it, and torch.save(model.state_dict(), path)"
        )
    strangers = [
        f"{key} (empty)" if value == {} else str(key)
        for key, value in content.items()
        if not isinstance(value, Tensor)
    ]
    if strangers:
        lying = entries_of(content)
        where = f"tensors lie under {listed(lying)}, give one of these as entry; or " if lying else ""
        # That is in the state dict itself: what modules return by get_extra_state.
        extra = all(name.removesuffix(" (empty)").endswith("_extra_state") for name in strangers)
        rest = "leave these out and save the others" if extra else "save the model's state_dict() alone"
        raise CheckpointError(
            f"{path} is not a plain state dict: not tensors are {listed(strangers)}; {where}{rest}"
        )
    state: State = {str(key): value for key, value in content.items()}
    # One number may stand for any number of them, of which a copy has any size.
    claiming = [
        key
        for key, value in state.items()
        if not value.is_meta and value.numel() * value.itemsize > num_bytes
    ]
    if claiming:
        raise CheckpointError(
            f"{path} has {num_bytes} bytes, and claims larger tensors, {listed(claiming)}: where they are "
            "expanded, save clones of them"
        )
    return state, whole


def _check_beginning(beginning: bytes, path: Path) -> None:
    """Refuse what is plainly another kind of file: what a reader of pickles says of it helps nobody."""
    if not beginning:
        raise CheckpointError(f"{path} is empty: save or fetch it again")
    kind = kind_of_beginning(beginning)
    if kind is not None:
        raise CheckpointError(f"{path} is no checkpoint: it begins like {kind}")


def _kind(content: object) -> str:
    if isinstance(content, restricted_pickle.Placeholder):
        return "a single object"
    return f"{'an empty' if content == {} else 'a'} {type(content).__name__}"


def begins_as_safetensors(beginning: bytes) -> bool:
    """Return whether a file begins as safetensors do: 8 bytes of length, then a JSON object."""
    return beginning[8:9] == b"{"


def _read_torch(file: BinaryIO, path: Path) -> object:
    check_zip(path, file)
    file.seek(0)
    if file.read(len(_ZIP_BEGINS)) == _ZIP_BEGINS and not zipfile.is_zipfile(file):
        raise CheckpointError(f"{path} is cut or damaged, its end is missing: save or fetch it again")
    file.seek(0)
    try:
        # weights_only refuses every class but tensors and plain containers: reading runs no code.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the refusal below says what matters
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return _read_objects(file, path)
    except Exception as error:  # what a damaged file raises is anybody's guess
        raise CheckpointError(
            f"{path} is no checkpoint that torch.save wrote, or is damaged: {one_line(error)}"
        ) from None


def _read_objects(file: BinaryIO, path: Path) -> object:
    try:
        return read_with_placeholders(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and was not read: {one_line(error)}"
        ) from None


def check_zip(path: Path, part: BinaryIO | None = None) -> None:
    """Refuse a zip file that unpacks to more than it has, which ``torch.save`` does not, or is damaged.

    Args:
        path: The file.
        part: The file, open, or the bytes in it that ``torch.save`` wrote; None opens the file.

    Raises:
        CheckpointError: It does, or bytes of it are not those that were written, or it is another kind of
            zip file.
    """
    try:
        if not zipfile.is_zipfile(path if part is None else part):
            return  # an older file, or a cut one, which torch.load refuses
        size = path.stat().st_size if part is None else part.seek(0, io.SEEK_END)
        with zipfile.ZipFile(path if part is None else part) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
            kind = kind_of_zip(file.namelist())
            # PyTorch does not compare checksums, and would take a hole that a download left for zeros.
            damaged = with_checksums(file).testzip() if kind is None and unpacked <= size else None
    except Exception as error:  # what a damaged file raises is anybody's guess
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from None
    if kind is not None:
        raise CheckpointError(f"{path} is {kind}")
    if unpacked > size:
        raise CheckpointError(
            f"{path} is no checkpoint that torch.save wrote, or is damaged: its {size} bytes "
            f"claim to unpack to {unpacked}"
        )
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: the checksum of {damaged:.100} is wrong; save or fetch it again"
        )


def _read_arrays(data: bytes, path: Path) -> object:
    """Return what a pickle of NumPy arrays holds, without what only going on with a training needs."""
    try:
        content = restricted_pickle.loads(data)
    except pickle.UnpicklingError as error:
        if b"_rebuild_tensor" in data or b"torch.storage" in data:
            raise CheckpointError(
                f"{path} holds tensors that pickle.dump wrote, which are not read: load it where you trust "
                "it, and torch.save(model.state_dict(), path)"
            ) from None
        # Old pickles are of letters too, and end with a point.
        if not data.endswith(b".") and _is_text(data[:512]):
            raise CheckpointError(f"{path} is no checkpoint: it is a text") from None
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and was not read: {one_line(error)}"
        ) from None
    blobs = content.get("blobs", content) if isinstance(content, dict) else content
    if not isinstance(blobs, dict):
        return blobs
    return {key: value for key, value in blobs.items() if not _OF_TRAINING.search(str(key))}


def _is_text(beginning: bytes) -> bool:
    # A letter of several bytes may be cut at the end.
    text = beginning.decode("utf-8", errors="ignore")
    return len(text.encode()) > len(beginning) - 4 and all(
        letter.isprintable() or letter in "\r\n\t\ufeff" for letter in text
    )


def check_numbers(state: Mapping[str, Tensor], file: str) -> None:
    """Check that tensors are what weights are: numbers in memory, one a place, and real.

    Raises:
        CheckpointError: One is not; the message names it.
    """
    for key, value in state.items():
        is_plain = value.layout == torch.strided and not value.is_nested
        # Copying a complex tensor into a real one drops half of it, with no more than a warning.
        if value.is_meta or value.is_complex() or value.is_quantized or not is_plain:
            raise CheckpointError(
                f"{file} must hold plain tensors of real numbers; {key} is "
                f"{'nested' if value.is_nested else value.layout}, {value.dtype}, on {value.device}"
            )


def listed(names: list[str], most: int = 8) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
