"""Reading processes of a data loader: they leave signals to their parent, and end with who reads."""

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


def leave_signals_to_parent(worker_id: int) -> None:
    """Make a reading process ignore SIGINT and SIGTERM.

    A terminal or a scheduler signals the whole process group; a reader that died of it would take the
    training process along before it has saved. Readers end when the training process does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Batches:
    """What a loader gives; its reading processes end with the last of it, or with an error.

    Python ends the children of a process by SIGTERM and waits for them. Readers that ignore it, and are kept
    alive by the traceback of an error of their own, would be waited for for ever.

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
        """Start the readers with signals held back: one that came before they ignore it would end them."""
        if not self._loader.num_workers or not hasattr(signal, "pthread_sigmask"):
            return iter(self._loader)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            return iter(self._loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
