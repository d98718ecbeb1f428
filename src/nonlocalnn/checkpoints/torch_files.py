"""Files of ``torch.save`` that hold objects beside their weights: tensors are read, objects are left out.

PyTorch's own safe reader refuses such files as a whole. Here the few functions that rebuild a tensor or an
array of NumPy's are known by name, and replaced by ours; everything else that a file names becomes a
placeholder, which does nothing.
"""

from __future__ import annotations

import contextlib
import io
import sys
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import torch

from nonlocalnn.checkpoints.pickled_arrays import Array, DType, functions_of, with_tensors
from nonlocalnn.checkpoints.restricted_pickle import (
    Known,
    Placeholder,
    UnpicklingError,
    loads_with_placeholders,
    next_pickle,
)

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
    "QUInt4x2Storage": torch.uint8,
    "QUInt2x4Storage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# Some are only for storing: what the network makes of them is said where they are among the weights.
_DTYPES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and not name.startswith("q")  # quantised: with scales elsewhere
}


class _Storage:
    """The bytes that tensors share, and the type of their numbers."""

    __slots__ = ("dtype", "raw")

    def __init__(self, dtype: torch.dtype, raw: bytearray) -> None:
        self.dtype, self.raw = dtype, raw

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError("it sets the state of a tensor's bytes")

    def tensor(self, dtype: torch.dtype, offset: int, size: Any, stride: Any) -> object:
        """Return a tensor in these bytes; PyTorch checks that it lies within them."""
        # frombuffer refuses to make a tensor of no numbers, and takes not all types.
        raw = torch.frombuffer(self.raw, dtype=torch.uint8) if self.raw else torch.empty(0, dtype=torch.uint8)
        return raw.view(dtype).as_strided(size, stride, offset)


def read_with_placeholders(file: BinaryIO) -> object:
    """Return what a file of ``torch.save`` holds: tensors on the CPU, plain containers, and placeholders.

    Args:
        file: The file, open, which unpacks to no more than it has.

    Raises:
        pickle.UnpicklingError: It is damaged, or asks for a function of the system.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _read_zip(with_checksums(archive))
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        return _read_before_zip(file, num_bytes)
    except UnpicklingError:
        raise
    except Exception as error:  # what a damaged file raises is anybody's guess
        raise UnpicklingError(f"{type(error).__name__}: {error}") from None


def with_checksums(archive: zipfile.ZipFile) -> zipfile.ZipFile:
    """Return a zip file whose parts are compared with their checksums, where it has any."""
    # torch.save may leave them out, as 0.
    for part in archive.infolist():
        part.CRC = part.CRC or None  # type: ignore[assignment]  # what zipfile does not compare
    return archive


def _read_zip(archive: zipfile.ZipFile) -> object:
    name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = name.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
        raise UnpicklingError("its numbers have their bytes in the other order")
    # Tensors may share one storage, which is read once.
    storages: dict[str, _Storage] = {}

    def storage(identifier: Any) -> object:
        _, kind, key, _, number = identifier
        if key not in storages:
            storages[key] = _Storage(kind.value, bytearray(archive.read(f"{folder}data/{key}")))
        _check_length(storages[key], number)
        return storages[key]

    with archive.open(name) as file:
        data = file.read()
    return _loads(data, storage)


def _read_before_zip(file: BinaryIO, num_bytes: int) -> object:
    """Read what ``torch.save`` wrote before it wrote zip files: pickles, then the bytes of the storages."""
    magic, protocol, system = (_next(file, num_bytes) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise UnpicklingError(f"it does not begin as files do: {magic!r}, {protocol!r}"[:200])
    storages: dict[str, _Storage] = {}
    bytes_left = num_bytes

    def storage(identifier: Any) -> object:
        nonlocal bytes_left
        if identifier[0] == "module":  # a class, with its source
            return identifier[1]
        _, kind, key, _, number, view = identifier
        if view is not None:
            raise UnpicklingError("it has a tensor in a part of another's bytes")
        if key not in storages:
            bytes_left -= number * kind.value.itemsize
            if bytes_left < 0 or number < 0:
                raise UnpicklingError("its tensors have more bytes than it has")
            storages[key] = _Storage(kind.value, bytearray(number * kind.value.itemsize))
        return storages[key]

    content = _loads(next_pickle(file, num_bytes), storage)
    keys = _next(file, num_bytes)
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise UnpicklingError("its tensors' bytes are not those that it names")
    for key in keys:
        file.read(8)  # the number once more
        if file.readinto(storages[key].raw) != len(storages[key].raw):  # type: ignore[attr-defined]
            raise UnpicklingError("it is cut")
    return content


def _next(file: BinaryIO, num_bytes: int) -> object:
    return loads_with_placeholders(next_pickle(file, num_bytes), {}, _no_storage)


def _no_storage(identifier: object) -> object:
    raise UnpicklingError("it has tensors where none belong")


def _loads(data: bytes, storage: Any) -> object:
    whole = next_pickle(io.BytesIO(data), len(data))
    # In a list, so that a file which is one array gives a tensor too.
    found: Any = with_tensors([loads_with_placeholders(whole, _KNOWN, storage)], len(data))
    return found[0]


class _MaybeDType(DType):
    """The type of an array's numbers; none of an array of anything else."""

    def __init__(self, code: str, *_: object) -> None:
        with contextlib.suppress(UnpicklingError, TypeError):
            super().__init__(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        with contextlib.suppress(UnpicklingError):
            super().__setstate__(state)


class _MaybeArray(Array):
    """An array that is left out where it is not of numbers."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        try:
            super().__setstate__(state)
        except (UnpicklingError, ValueError, TypeError):
            self._raw = None

    def __len__(self) -> int:
        return 0 if self._raw is None else super().__len__()

    def tensor(self) -> Any:
        return Placeholder() if self._raw is None else super().tensor()


def _text(text: object, encoding: object = None, *_: object) -> object:
    return text if encoding == "latin1" else Placeholder()


def _bytes(*arguments: object) -> object:
    return Placeholder() if arguments else ""


def _check_length(storage: _Storage, number: object) -> None:
    if not isinstance(number, int) or len(storage.raw) < number * storage.dtype.itemsize:
        raise UnpicklingError(f"it claims {number!r} numbers in {len(storage.raw)} bytes"[:200])


def _tensor(
    storage: _Storage, offset: int, size: Any, stride: Any, requires_grad: bool = False, *more: Any
) -> object:
    # After the hooks: of numbers that are stored with their signs turned.
    return Placeholder() if any(more[1:]) else storage.tensor(storage.dtype, offset, size, stride)


def _tensor_of_type(
    storage: _Storage,
    offset: int,
    size: Any,
    stride: Any,
    grad: bool,
    hooks: object,
    dtype: object,
    *more: Any,
) -> object:
    # A type of a newer PyTorch's is not known.
    if any(more) or not isinstance(dtype, Known):
        return Placeholder()
    return storage.tensor(dtype.value, offset, size, stride)


def _parameter(data: object, *_: object) -> object:
    return data


def _with_attributes(function: Known, kind: object, arguments: Iterable[Any], state: object) -> object:
    return function(*arguments)


def _ordered(pairs: Iterable[Any] = ()) -> Placeholder:
    made = Placeholder()
    made.update(pairs)
    return made


_KNOWN: dict[tuple[str, str], object] = {
    **{("torch", name): dtype for name, dtype in {**_STORAGES, **_DTYPES}.items()},
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_type,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _with_attributes,
    ("collections", "OrderedDict"): _ordered,
    **functions_of(_MaybeArray, _MaybeDType),
    ("numpy", "ndarray"): Placeholder,
    ("_codecs", "encode"): _text,
    ("__builtin__", "bytes"): _bytes,
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
}
