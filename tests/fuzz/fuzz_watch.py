"""A watch over what reading a file does besides: programs, changes on disk, sockets, memory, time."""

import contextlib
import functools
import os
import resource
import signal
import sys

# Python announces these before they happen; whoever reads a file needs none of them.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.symlink", "os.link", "os.truncate"),
    *(
        "subprocess.Popen",
        "shutil.",
        "socket.connect",
        "socket.bind",
        "socket.getaddrinfo",
        "pickle.find_class",
    ),
    *("ctypes.dlopen", "webbrowser.open", "pty.spawn", "urllib.Request"),
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NAMED_BY_FILES = ("antigravity", "canary_of_a_file", "this")

_seen: list[str] | None = None
_is_installed = False


def _hook(event, arguments):
    if _seen is None:
        return
    if event.startswith(_FORBIDDEN):
        _seen.append(f"{event} {str(arguments)[:200]}")
    elif event == "import" and arguments[0] in _NAMED_BY_FILES:
        _seen.append(f"import {arguments[0]}")
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        _seen.append(f"open for writing {str(arguments[0])[:200]}")


@contextlib.contextmanager
def watched():
    """Fail with an AssertionError if the block does what reading a file never needs."""
    global _seen, _is_installed
    if not _is_installed:
        sys.addaudithook(_hook)  # it stays until the process ends
        _is_installed = True
    _seen, events = [], []
    try:
        yield
    finally:
        events, _seen = _seen, None
    assert not events, f"reading did {events[:3]}"


class TookTooLong(Exception):
    """A case that runs for longer than it may."""


def _stop(*_):
    raise TookTooLong


@contextlib.contextmanager
def time_limit(seconds):
    """Raise :class:`TookTooLong` in the block after some seconds."""
    before = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@functools.cache
def limit_memory(more):
    """Let this process take so many more bytes of address space, and no more, for good."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


def ran_out_of_memory(error):
    """Return whether an error, or what it was made of, says that memory was asked for and not had."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False
