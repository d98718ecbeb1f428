"""A job of the explorer, the limits of jobs, and the error with which a request is refused."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class Refusal(Exception):
    """The error with which the server refuses a request.

    Args:
        status: HTTP status.
        message: For the user.
        retry_after: Seconds after which the client may try again.

    Example:
        >>> Refusal(404, "there is no such job").status
        404
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def gave_way() -> Refusal:
    """Return the error of an upload that lost its place in the queue to another one."""
    return Refusal(408, "the upload was too slow while others waited: try again later", retry_after=60)


@dataclass(frozen=True)
class Limits:
    """Limits of jobs.

    Args:
        upload_bytes: Size of an uploaded file.
        seconds: Time of a job, from its start to its end.
        memory_bytes: Memory of the worker process while a job runs, models included.
        queued: Number of waiting jobs, uploads under way included.
        queued_per_client: The same for one client address.
        kept: Number of ended jobs whose results are kept, at least 1.
        kept_bytes: Size of their documents; those of the last job are kept whatever their size.
        upload_seconds: Time of an upload, from its start to its end.
        upload_pause_seconds: Time between two parts of an upload.
        upload_speed: Bytes a second. When a place in the queue is wanted, the slowest upload below this speed
            loses its own.
        upload_grace_seconds: Time that an upload has to reach that speed.
    """

    upload_bytes: int = 64 << 20
    seconds: float = 60.0
    memory_bytes: int = 4096 << 20
    queued: int = 16
    queued_per_client: int = 4
    kept: int = 32
    kept_bytes: int = 512 << 20
    upload_seconds: float = 300.0
    upload_pause_seconds: float = 20.0
    upload_speed: float = 256 << 10
    upload_grace_seconds: float = 2.0


@dataclass(eq=False)
class Job:
    """One input and the models that it is explained with.

    Attributes:
        client: The address that it came from.
        folder: Its own, for its upload and its documents.
        id: A random name that nobody can guess. Whoever knows it may see the job and cancel it.
        state: "receiving" until the input is there; then "queued", "running", and at last "done", "failed" or
            "cancelled".
        title: What the input is called.
        path: Where it is.
        models: Names.
        step: What is being done, for the user.
        reason: Why there is no document.
        status: HTTP status of requests for a document when the job failed or was cancelled.
        size: Bytes of its documents.
        began: When it was made, by the monotonic clock.
        received: Bytes of its input that have arrived.
        give_way: Function that ends its upload; None while no upload is under way.
    """

    client: str
    folder: Path
    id: str
    state: str = "receiving"
    title: str = ""
    path: Path = field(default_factory=Path)
    models: tuple[str, ...] = ()
    step: str | None = None
    reason: str | None = None
    status: int = 409
    size: int = 0
    began: float = field(default_factory=time.monotonic)
    received: int = 0
    give_way: Callable[[], object] | None = None

    @classmethod
    def begin(cls, client: str, root: Path) -> Job:
        """Return a new job, with a folder in ``root``."""
        identity = secrets.token_urlsafe(16)
        job = cls(client, root / identity, identity)
        job.folder.mkdir()
        return job

    @property
    def speed(self) -> float:
        """Mean speed of its upload so far, in bytes a second."""
        return self.received / max(time.monotonic() - self.began, 1e-9)

    @property
    def has_ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state in ("done", "failed", "cancelled")
