"""The worker process, which holds the models and explains one input at a time.

Only this process decodes foreign files. It sends JSON and not pickles, so that even a worker that a file has
taken over cannot run anything in the server. Documents are written to files.
"""

from __future__ import annotations

import errno
import json
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from nonlocalnn._files import json_text
from nonlocalnn.explorer.admission import check_size
from nonlocalnn.inference.loading import Loaded, load_trained

UNKNOWN_FAULT = "it could not be explained: an unexpected error, which the server's log tells of"
_LONGEST_REASON = 500
# The start of a path of this machine in a message: a slash that does not follow a word, or a drive.
_MACHINE_PATH = re.compile(r"(?<![\w.)])/\w|\b[A-Za-z]:\\")


class Explain(Protocol):
    """A function that makes the document of one input and one model."""

    def __call__(self, loaded: Loaded, path: Path, *, title: str, model: str) -> dict[str, Any]:
        """Return the document; users see the text of ValueError, FileNotFoundError and ImportError."""


def run_worker(connection: Connection, models: Mapping[str, Path], explain: Explain) -> None:
    """Load the models, then explain inputs until the other end closes the connection.

    Each message is a JSON object. First comes ``{"ready": {model: kind}}``, or
    ``{"unusable": reason}`` and the end; for each job any number of ``{"step": text}`` and then
    ``{"done": true}`` or ``{"failed": reason, "expected": whether the input is to blame}``.

    Args:
        connection: Where jobs come from: ``{"path", "title", "models", "folder"}``; the document of model
            number n is written to ``folder/n.json``.
        models: The checkpoint, or the run's folder, of each model.
        explain: Makes a document.
    """
    # Ctrl-C reaches the whole process group. The server kills this process when it has finished its own work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def send(message: Mapping[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    try:
        try:
            loaded = {name: _load(path) for name, path in models.items()}
        except (OSError, ValueError, ImportError) as error:
            send({"unusable": _one_line(error)})
            return
        send({"ready": {name: each.kind.name for name, each in loaded.items()}})
        while True:
            job = json.loads(connection.recv_bytes())
            send(_fill(send, job, loaded, models, explain))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _load(path: Path) -> Loaded:
    loaded = load_trained(path)
    if loaded.assumptions:
        print(f"nonlocalnn explore: {path} does not say, assumed: {loaded.assumptions}", file=sys.stderr)
    return loaded


def _fill(
    send: Callable[[Mapping[str, Any]], None],
    job: Mapping[str, Any],
    loaded: Mapping[str, Loaded],
    models: Mapping[str, Path],
    explain: Explain,
) -> dict[str, Any]:
    """Write the documents of one job, and return its last message."""
    path, chosen = Path(job["path"]), job["models"]
    try:
        send({"step": "checking the file"})
        for kind in sorted({loaded[name].kind.name for name in chosen}):
            check_size(path, kind=kind)
        for number, name in enumerate(chosen):
            send({"step": f"explaining with {name} ({number + 1} of {len(chosen)})"})
            document = explain(loaded[name], path, title=job["title"], model=name)
            try:
                content = json_text(document, allow_nan=False)
            except ValueError as error:
                raise RuntimeError("the document is no JSON") from error
            Path(job["folder"], f"{number}.json").write_text(content, encoding="utf-8")
    except (BrokenPipeError, ConnectionResetError):
        raise
    except MemoryError:
        return {"failed": "it needs more memory than there is: choose a smaller one", "expected": True}
    except Exception as error:
        message = _one_line(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"nonlocalnn explore: {message}", file=sys.stderr)
            return {"failed": "the server has no room for the result: try again later", "expected": False}
        names = {str(path): job["title"], **{str(place): name for name, place in models.items()}}
        expected = isinstance(error, ValueError | FileNotFoundError | ImportError)
        reason = without_paths(message, names) if expected else None
        if reason is None:
            traceback.print_exc(file=sys.stderr)
            return {"failed": UNKNOWN_FAULT, "expected": False}
        print(f"nonlocalnn explore: {message}", file=sys.stderr)
        return {"failed": reason, "expected": True}
    return {"done": True}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON]


def without_paths(message: str, names: Mapping[str, str]) -> str | None:
    """Return a message with known paths replaced by names; None where another path of the machine is left.

    Example:
        >>> without_paths("cannot read /tmp/x1/upload.png: cut", {"/tmp/x1/upload.png": "cat.png"})
        'cannot read cat.png: cut'
        >>> without_paths("cannot open '/etc/fonts'", {}) is None
        True
    """
    # Names may look like paths themselves, so they are put in after the search for paths.
    for number, path in enumerate(sorted(names, key=len, reverse=True)):
        message = message.replace(path, f"\0{number}\0")
    if _MACHINE_PATH.search(message):
        return None
    for number, path in enumerate(sorted(names, key=len, reverse=True)):
        message = message.replace(f"\0{number}\0", names[path])
    return message
