"""Pickles read without importing or calling anything that they name.

:func:`loads` reads Python-2 pickles of arrays, numbers, strings, lists and dicts, and refuses anything else.
The few names that a pickled array needs stand for the small classes of pickled_arrays.py, which check sizes
before they hold anything; NumPy itself is not asked. :func:`loads_with_placeholders` reads what lies beside
weights too: there every other name stands for one class, :class:`Placeholder`, that does nothing.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from nonlocalnn.checkpoints.pickled_arrays import Array, DType, functions_of, with_tensors

# Python reserves as much memory as these say.
_SIZES = ("PUT", "BINPUT", "LONG_BINPUT", "FRAME")
# No record of a training is made of these: a file that names one was made to do harm, or was damaged.
_MODULES_OF_THE_SYSTEM = frozenset(
    (
        "os",
        "posix",
        "nt",
        "subprocess",
        "pty",
        "runpy",
        "shutil",
        "socket",
        "webbrowser",
        "ctypes",
        "importlib",
        "timeit",
        "marshal",
    )
)
_FUNCTIONS_OF_PYTHON = frozenset(
    {"eval", "exec", "execfile", "compile", "__import__", "open", "open_code", "breakpoint"}
)
# `open` is at home in the last one.
_MODULES_OF_PYTHON = ("builtins", "io", "_io")

_FUNCTIONS = functions_of(Array, DType)

UnpicklingError = pickle.UnpicklingError


def loads(data: bytes) -> object:
    """Return what a pickle holds, arrays as tensors.

    Args:
        data: The whole pickle; its strings are read as latin1, as Python 2 wrote them.

    Raises:
        pickle.UnpicklingError: It is cut, asks for anything that is not an array, or claims more bytes than
            it has.

    Example:
        >>> loads(pickle.dumps({"blobs": {"lr": 0.5}}, protocol=2))
        {'blobs': {'lr': 0.5}}
        >>> loads(pickle.dumps(print))
        Traceback (most recent call last):
            ...
        _pickle.UnpicklingError: it asks for builtins.print
    """
    try:
        whole = next_pickle(io.BytesIO(data), len(data))
        return with_tensors(_Unpickler(io.BytesIO(whole), encoding="latin1").load(), len(data))
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # what a damaged pickle raises is anybody's guess
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None


def next_pickle(file: BinaryIO, num_bytes: int) -> bytes:
    """Return the bytes of the pickle at which a file stands, and leave the file behind it.

    Args:
        file: What is read.
        num_bytes: How many bytes the file has: a pickle cannot hold more than so many entries.

    Raises:
        pickle.UnpicklingError: It claims more.
        ValueError: It is cut or damaged.
    """
    begin = file.tell()
    for code, argument, _ in pickletools.genops(file):
        if code.name in _SIZES and argument is not None and argument > num_bytes:
            raise pickle.UnpicklingError(f"it claims {argument} entries in {num_bytes} bytes")
    end = file.tell()
    file.seek(begin)
    return file.read(end - begin)


class Placeholder(dict[Any, Any]):
    """What stands for everything whose class a file names: the items and the state it was given, no more."""

    __slots__ = ("state",)
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __new__(cls, *arguments: object, **settings: object) -> Placeholder:
        """Make one without items and state."""
        made = dict.__new__(cls)
        made.state = None
        return made

    def __init__(self, *arguments: object, **settings: object) -> None:
        """Take any arguments, as any class might, and keep none."""

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __call__(self, *arguments: object, **settings: object) -> Placeholder:
        """Return another, as what is not known may be a function."""
        return Placeholder()

    def extend(self, items: object) -> None:
        """Leave out the items of a list of an unknown kind."""

    append = add = extend


def loads_with_placeholders(
    data: bytes, known: Mapping[tuple[str, str], object], persistent: Callable[[Any], object]
) -> object:
    """Return what a pickle holds, with a :class:`Placeholder` for each object of a class that is not known.

    Args:
        data: One whole pickle, of :func:`next_pickle`.
        known: Module and name of what is known: a function, which is called, or a constant.
        persistent: Returns what an identifier of the writer's stands for.

    Raises:
        pickle.UnpicklingError: It is damaged, or asks for a function of the system.

    Example:
        >>> import fractions
        >>> data = pickle.dumps({"lr": 0.5, "share": fractions.Fraction(1, 3)})
        >>> loads_with_placeholders(data, {}, print)
        {'lr': 0.5, 'share': {}}
    """
    return _WithPlaceholders(data, known, persistent).load()


class _WithPlaceholders(pickle.Unpickler):
    def __init__(
        self, data: bytes, known: Mapping[tuple[str, str], object], persistent: Callable[[Any], object]
    ) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._known, self._persistent = known, persistent

    def find_class(self, module: str, name: str) -> object:
        # Up to protocol 2 a pickle says where Python 2 had it: commands.getoutput is one of subprocess.
        now = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        is_of_python = now[0] in _MODULES_OF_PYTHON and now[1] in _FUNCTIONS_OF_PYTHON
        if is_of_python or now[0].partition(".")[0] in _MODULES_OF_THE_SYSTEM:
            raise pickle.UnpicklingError(f"it asks for {'.'.join(now)}")
        found = self._known.get((module, name), Placeholder)
        return found if found is Placeholder else Known(found)

    def persistent_load(self, identifier: Any) -> object:
        return self._persistent(identifier)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        function = _FUNCTIONS.get((module, name))
        if function is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return Known(function)


class Known:
    """What a pickle may call, and do nothing else with: a plain function could be given other defaults."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, *arguments: object) -> object:
        """Call what is known."""
        return self.value(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")
