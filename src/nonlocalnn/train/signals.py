"""Stopping when asked to, between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether, and by which signal, the process was asked to stop.

    ``signal_number`` is 0 until then.
    """

    def __init__(self) -> None:
        self.signal_number = 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying of them; the old handlers come back at the end.

    A second SIGINT raises KeyboardInterrupt at once. Python lets only the main thread set handlers; in
    another thread no signal is noted.

    Example:
        >>> with stop_on_signal() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.signal_number
        15
    """
    stop = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal_number = number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            # None stands for a handler that C code installed, which Python cannot name.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
