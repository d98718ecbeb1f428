"""Ends what a driver of faults has started, training processes in sessions of their own included."""

import contextlib
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 10.0


def descendants(ancestor):
    """Return the processes below one that are not dead, whatever their session."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, more = set(), {ancestor}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return found


@contextmanager
def nothing_left():
    """End every process below this one at the end of the block, and make SIGTERM unwind it.

    The processes are stopped before they are killed: what loses its parent is below us no more, and what runs
    might start others meanwhile.
    """

    def stop(*_):
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # A second signal must not break this off.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _end(os.getpid())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, before)


def _end(ancestor):
    stopped = set()
    end = time.monotonic() + _SECONDS
    while (new := descendants(ancestor) - stopped) and time.monotonic() < end:
        for pid in new:
            _send(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _send(pid, signal.SIGKILL)
    while any(_is_alive(pid) for pid in stopped) and time.monotonic() < end:
        time.sleep(0.02)


def _send(pid, number):
    # It may have ended since.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
