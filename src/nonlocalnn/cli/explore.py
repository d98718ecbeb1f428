"""``nonlocalnn explore``."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from nonlocalnn.cli.common import check_rate
from nonlocalnn.cli.flags.explore import parser
from nonlocalnn.explorer.explain import explain_file
from nonlocalnn.explorer.job import Limits
from nonlocalnn.explorer.jobs import JobQueue
from nonlocalnn.tasks.kinds import kind_named

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(words: Sequence[str]) -> int:
    """Serve the explorer until Ctrl-C or SIGTERM; then no process and no file of it is left."""
    args = parser().parse_args(words)
    for flag in ("max_upload_mib", "time_limit", "memory_limit_mib", "max_queued"):
        if not getattr(args, flag) > 0:
            raise ValueError(f"--{flag.replace('_', '-')} must be greater than 0; got {getattr(args, flag)}")
    if not 0 <= args.port < 65536:
        raise ValueError(f"--port must be from 0 to 65535; got {args.port}")
    if args.inputs is not None and not args.inputs.is_dir():
        raise FileNotFoundError(f"--inputs must be a folder; there is no folder {args.inputs}")
    check_rate(args.rate)
    limits = Limits(
        upload_bytes=round(args.max_upload_mib * (1 << 20)),
        seconds=args.time_limit,
        memory_bytes=round(args.memory_limit_mib * (1 << 20)),
        queued=args.max_queued,
    )
    return _serve(parse_models(args.models), args.inputs, args.host, args.port, limits, args.rate)


def parse_models(words: Sequence[str]) -> dict[str, Path]:
    """Return the models by their names.

    Args:
        words: ``PATH`` or ``NAME=PATH`` each.

    Raises:
        ValueError: Two have the same name, or a name is empty or has a slash.

    Example:
        >>> parse_models(["runs/a", "after=runs/b.safetensors"])
        {'a': PosixPath('runs/a'), 'after': PosixPath('runs/b.safetensors')}
    """
    models: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        # A path may hold an equals sign itself.
        if not equals or os.path.exists(word):
            place = Path(word)
            name, path = (place.resolve().name if place.is_dir() else place.stem), word
        if not name or "/" in name:
            raise ValueError(f"--model must be PATH or NAME=PATH, with a name without slashes; got {word!r}")
        if name in models:
            raise ValueError(f"two models are called {name!r}: give them names, as in --model before={path}")
        models[name] = Path(path)
    return models


def _serve(
    models: dict[str, Path],
    inputs: Path | None,
    host: str,
    port: int,
    limits: Limits,
    rate: float | None,
) -> int:
    # It needs libraries of an extra.
    from nonlocalnn.explorer.server import create_app, make_server

    # Before the models are loaded, which takes a while.
    with _listen(host, port) as listening, _stopped_by_sigterm():
        try:
            with JobQueue(models, partial(explain_file, rate=rate), limits=limits) as queue:
                # What the models take is known once they are loaded.
                check_rate(rate, *map(kind_named, queue.kinds.values()))
                if host not in _LOOPBACK:
                    print(
                        "nonlocalnn explore: warning: there are no user accounts: whoever reaches "
                        f"{host} can use the models, and choose from --inputs",
                        file=sys.stderr,
                    )
                shown = f"[{host}]" if ":" in host else host
                print(f"explorer at http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
                make_server(create_app(queue, inputs=inputs, host=host)).run(sockets=[listening])
        except KeyboardInterrupt:
            # How a server is meant to be ended.
            print("nonlocalnn explore: stopped", file=sys.stderr)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        # For a port that is taken Python's own text repeats the address.
        reason = "Address already in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise OSError(f"cannot listen on {host}, port {port}: {reason}; choose another --port") from error


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind the program, so that what it holds is given back."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
