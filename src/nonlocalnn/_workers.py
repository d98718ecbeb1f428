"""Worker processes of a data loader: they ignore SIGINT and SIGTERM, and exit with the iterator."""

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


def leave_signals_to_parent(worker_id: int) -> None:
    """Make a worker process ignore SIGINT and SIGTERM.

    A terminal or a scheduler signals the whole process group. A worker that died of it would end the training
    process before that has saved. Workers exit when the training process does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Batches:
    """The batches of a loader; its worker processes exit after the last batch, or at an error.

    A Python process that exits sends SIGTERM to its children and waits for them. It would wait for ever for
    workers that ignore SIGTERM and that the traceback of an error keeps alive.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._begin()
        try:
            yield from iterator
        finally:
            if self._loader.num_workers:
                iterator._shutdown_workers()

    def _begin(self) -> Any:
        """Start the workers with signals blocked: a signal that came before they ignore it would end them."""
        if not self._loader.num_workers or not hasattr(signal, "pthread_sigmask"):
            return iter(self._loader)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            return iter(self._loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
