"""Arrays in pickles, made into tensors without NumPy: sizes are checked before anything is held."""

from __future__ import annotations

import math
import pickle
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}


class DType:
    """The type of an array's numbers, one that is a number's."""

    __slots__ = ("torch_dtype",)

    def __init__(self, code: str, *_: object) -> None:
        self.torch_dtype: torch.dtype | None = None
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"it has an array of the type {code!r}, not of numbers")
        self.torch_dtype = _DTYPES[code]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.torch_dtype = None
            raise pickle.UnpicklingError("it has an array with the first byte highest")


class Array:
    """An array whose numbers are still bytes, of which there are as many as its shape says."""

    __slots__ = ("_axes", "_dtype", "_is_fortran", "_raw", "_shape", "_tensor")

    def __init__(self, *_: object) -> None:
        self._raw: str | bytes | bytearray | None = None
        self._axes: tuple[int, ...] | None = None
        self._tensor: Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        is_raw = isinstance(raw, str | bytes | bytearray)
        if not isinstance(dtype, DType) or dtype.torch_dtype is None or not is_raw:
            raise pickle.UnpicklingError("it has an array of objects")
        self._shape, self._dtype, self._is_fortran = tuple(map(int, shape)), dtype.torch_dtype, is_fortran
        if min(self._shape, default=0) < 0 or math.prod(self._shape) * self._dtype.itemsize != len(raw):
            raise pickle.UnpicklingError(f"it has an array of shape {self._shape} with {len(raw)} bytes")
        self._raw = raw

    def __len__(self) -> int:
        if self._raw is None:
            raise pickle.UnpicklingError("it has an array without numbers")
        return len(self._raw)

    def tensor(self) -> Tensor:
        """Return the numbers; the same tensor each time."""
        assert self._raw is not None
        if self._tensor is None:
            raw = self._raw.encode("latin1") if isinstance(self._raw, str) else self._raw
            # frombuffer refuses to make a tensor of no numbers.
            no_numbers = torch.empty(0, dtype=self._dtype)
            flat = torch.frombuffer(bytearray(raw), dtype=self._dtype) if raw else no_numbers
            if self._is_fortran:
                self._tensor = flat.reshape(self._shape[::-1]).permute(*range(len(self._shape))[::-1])
            else:
                self._tensor = flat.reshape(self._shape)
            if self._axes is not None:
                self._tensor = self._tensor.permute(self._axes)
        return self._tensor

    def turn(self, axes: tuple[int, ...] | None) -> None:
        """Take the axes in another order than the numbers have."""
        self._axes = axes


def functions_of(array_kind: type[Array], dtype_kind: type[DType]) -> dict[tuple[str, str], Any]:
    """Return what stands for the names in a pickled array, by module and name."""

    def scalar(dtype: DType, raw: str | bytes) -> Array:
        array = array_kind()
        array.__setstate__((1, (), dtype, False, raw))
        return array

    def from_buffer(
        raw: object, dtype: DType, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
    ) -> Array:
        """Return an array as protocol 5 has it."""
        array = array_kind()
        array.__setstate__((1, shape, dtype, order == "F", raw))
        array.turn(axes)
        return array

    functions: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _ndarray,
        ("numpy", "dtype"): dtype_kind,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): _no_bytes,
    }
    for core in ("numpy.core", "numpy._core"):
        functions |= {
            (f"{core}.multiarray", "_reconstruct"): array_kind,
            (f"{core}.multiarray", "scalar"): scalar,
            (f"{core}.numeric", "_frombuffer"): from_buffer,
        }
    return functions


def _encode(text: str, encoding: str) -> str:
    # Left as it is: the array that it is for encodes it, once its size is known to be right.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it has text in {encoding!r}")
    return text


def _no_bytes() -> str:
    return ""


def _ndarray(*_: object) -> object:
    raise pickle.UnpicklingError("it makes an array in an unknown way")


def with_tensors(root: object, bytes_left: int) -> object:
    """Return ``root``, with the arrays in its lists and dicts made into tensors, in place."""
    stack: list[object] = [root]
    seen: set[int] = set()  # a pickle may hold one list in many places, or in itself
    while stack:
        container = stack.pop()
        if not isinstance(container, dict | list) or id(container) in seen:
            continue
        seen.add(id(container))
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(items):
            if isinstance(value, Array):
                bytes_left -= 0 if id(value) in seen else len(value)
                seen.add(id(value))
                if bytes_left < 0:
                    raise pickle.UnpicklingError("its arrays have more bytes than it has")
                container[key] = value.tensor()
            else:
                stack.append(value)
    return root
