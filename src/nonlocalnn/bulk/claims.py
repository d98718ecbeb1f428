"""Which process works on which part, told by locks that end with their process."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

# The first byte guards the manifest, the following ones a part each. Nothing is ever written there.
_MANIFEST, _FIRST_PART = 0, 1


class Claims:
    """Locks on the bytes of one file, which the system gives back when a process ends, however it ends.

    They are POSIX record locks: they hold between machines on a shared file system, and processes that this
    one starts have no share in them, so that none outlives it. One process opens a folder's claims once at a
    time, since closing any of them gives back all.

    Args:
        path: The file; made where it is missing, and left empty.

    Attributes:
        work: Whether the file system has locks, known once :meth:`manifest` was used. Where it has none,
            nothing is claimed, and nothing refused.

    Example:
        >>> import tempfile
        >>> with Claims(Path(tempfile.mkdtemp()) / "claims") as claims:
        ...     claims.work, claims.take(3)
        (True, True)
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.work = True

    @contextmanager
    def manifest(self) -> Iterator[None]:
        """Wait until no other process is at the manifest, and keep others from it in the block."""
        try:
            self._lock(_MANIFEST, wait=True)
        except (ImportError, OSError) as error:
            self.work = False
            warnings.warn(
                f"the output folder's file system has no locks ({error}): each process takes its own share "
                "of the parts and helps no other",
                stacklevel=3,
            )
        try:
            yield
        finally:
            if self.work:
                self._unlock(_MANIFEST)

    def take(self, part: int) -> bool:
        """Claim a part; return whether no other process has it."""
        if not self.work:
            return True
        try:
            self._lock(_FIRST_PART + part, wait=False)
        except OSError as error:
            # POSIX leaves it open which of the two a system says.
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def give_back(self, part: int) -> None:
        """End the claim on a part."""
        if self.work:
            self._unlock(_FIRST_PART + part)

    def _lock(self, byte: int, *, wait: bool) -> None:
        import fcntl  # which Windows lacks

        fcntl.lockf(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)

    def _unlock(self, byte: int) -> None:
        import fcntl

        fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, byte)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._handle)
