"""Runs jobs in a worker process, and kills the process when a job is cancelled or passes a limit."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

from nonlocalnn.explorer.job import Job, Limits
from nonlocalnn.explorer.worker import UNKNOWN_FAULT, Explain, run_worker

# Seconds between two checks of a running job: is it cancelled, over its time, over its memory?
_TICK = 0.05
_START_SECONDS = 300.0
_LONGEST_MESSAGE = 1 << 16
_DEATH = (
    "the process that explains ended before it was done: the file may be damaged, or need more memory than "
    "there is"
)


class Outcome(NamedTuple):
    """How a job ended: the HTTP status of requests for a document, and the reason if there is none."""

    status: int = 200
    reason: str | None = None


class Runner:
    """Keeps a worker process, and starts a new one after it had to kill the last.

    Args:
        models: The checkpoint, or the run's folder, of each model.
        explain: Makes a document; a function of a module, which the worker process imports.
        limits: Limits of jobs.
        is_closing: Returns whether the server is stopping.

    Attributes:
        kinds: "image", "video", "sequence" or "volume" for each model, once they have been loaded.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        explain: Explain,
        *,
        limits: Limits,
        is_closing: Callable[[], bool],
    ) -> None:
        self.kinds: dict[str, str] = {}
        self._models, self._explain = dict(models), explain
        self._limits, self._is_closing = limits, is_closing
        # The process and our end of its pipe.
        self._process: Any = None
        self._connection: Any = None

    def prepare(self) -> str | None:
        """Make sure that a worker runs and has loaded the models; return the reason if it cannot."""
        if self._process is not None and self._process.is_alive():
            return None
        self.close()
        self._start()
        deadline = time.monotonic() + _START_SECONDS
        message = None
        try:
            while message is None and time.monotonic() < deadline and not self._is_closing():
                message = self._receive()
        except (EOFError, OSError):
            message = {"unusable": "the process that holds the models ended while it loaded them"}
        if message is not None and "ready" in message:
            self.kinds = message["ready"]
            return None
        self.close()
        return "the models took too long to load" if message is None else str(message["unusable"])

    def run(self, job: Job) -> Outcome:
        """Run a job to its end."""
        # A worker that died while it waited is noticed only when it gets a job: that job is tried again.
        for _ in range(2):
            problem = self.prepare()
            if problem is not None:
                # Only the log gets the reason, which may name files of this machine.
                print(f"nonlocalnn explore: {problem}", file=sys.stderr)
                return Outcome(500, "the models could not be loaded again")
            outcome = self._try(job)
            if outcome is not None:
                return outcome
        return Outcome(500, _DEATH)

    def close(self) -> int | None:
        """Kill the worker, if there is one, and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.join()
        self._connection.close()
        return int(process.exitcode)

    def _start(self) -> None:
        # A process that is forked may wait for ever for locks that this one's threads held.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(
            target=run_worker,
            args=(theirs, self._models, self._explain),
            name="explorer-worker",
            daemon=True,
        )
        # Ctrl-C while the process imports its libraries would print a traceback.
        resource_tracker.ensure_running()  # it unblocks signals when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._process = process
        # If their end stayed open here too, the death of the process would go unnoticed.
        theirs.close()

    def _receive(self) -> dict[str, Any] | None:
        """Return the next message, None if none arrives soon; EOFError or OSError if the process died."""
        if not self._connection.poll(_TICK):
            return None
        # Of a limited length, since a file may have taken the worker over.
        message: dict[str, Any] = json.loads(self._connection.recv_bytes(_LONGEST_MESSAGE))
        return message

    def _try(self, job: Job) -> Outcome | None:
        """Run a job; None if the worker died before it started the job."""
        deadline = time.monotonic() + self._limits.seconds
        try:
            asked = {"path": str(job.path), "title": job.title, "models": job.models}
            self._connection.send_bytes(json.dumps({**asked, "folder": str(job.folder)}).encode())
            while True:
                message = self._receive() or {}
                job.step = message.get("step", job.step)
                if "done" in message:
                    return Outcome()
                if "failed" in message:
                    return Outcome(422 if message["expected"] else 500, message["failed"])
                fault = self._fault(job, deadline)
                if fault is not None:
                    self.close()
                    return fault
        except (EOFError, OSError):
            status = self.close()
            return None if job.step is None else Outcome(500, f"{_DEATH} (exit status {status})")
        except Exception:
            # Whatever a worker sends, the other jobs must go on.
            traceback.print_exc()
            self.close()
            return Outcome(500, UNKNOWN_FAULT)

    def _fault(self, job: Job, deadline: float) -> Outcome | None:
        """Return why a running job must stop."""
        if self._is_closing():
            return Outcome(503, "the server was stopped")
        if job.state == "cancelled":
            return Outcome(409, job.reason)
        if time.monotonic() > deadline:
            return Outcome(
                504, f"it took longer than the {self._limits.seconds:g} seconds that a job may take"
            )
        if self._memory() > self._limits.memory_bytes:
            mebibytes = self._limits.memory_bytes >> 20
            return Outcome(422, f"it needs more than the {mebibytes} MiB of memory that a job may take")
        return None

    def _memory(self) -> int:
        """Return the bytes of memory that the process holds; 0 where the system has no ``/proc``."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
