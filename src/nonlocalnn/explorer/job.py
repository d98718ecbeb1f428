"""One job of the explorer, what jobs may take, and what is answered instead."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class Refusal(Exception):
    """What the server answers instead of doing it.

    Args:
        status: The status of HTTP.
        message: For the user.
        retry_after: Seconds after which it may go.

    Example:
        >>> Refusal(404, "there is no such job").status
        404
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def gave_way() -> Refusal:
    """Return what is answered to an upload whose place went to another."""
    return Refusal(408, "the upload was too slow while others waited: try again later", retry_after=60)


@dataclass(frozen=True)
class Limits:
    """What jobs may take.

    Args:
        upload_bytes: A file.
        seconds: A job, from its start to its end.
        memory_bytes: The worker process while a job runs, models included.
        queued: Jobs that wait, uploads that are on their way included.
        queued_per_client: The same, of one client address.
        kept: Ended jobs that can be asked for, at least 1.
        kept_bytes: Documents of these; the last job's are kept whatever their size.
        upload_seconds: An upload, from its start to its end.
        upload_pause_seconds: Between two parts of an upload.
        upload_speed: Bytes a second of an upload that may go on when others want its place in the queue; the
            slowest below that gives way.
        upload_grace_seconds: For an upload to reach that speed.
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
        id: Nobody can guess it: who knows it may see the job and cancel it.
        state: "receiving" until the input is there; then "queued", "running", and at last "done", "failed" or
            "cancelled".
        title: What the input is called.
        path: Where it is.
        models: Names.
        step: What is being done, for the user.
        reason: Why there is no document.
        status: The status of HTTP for who asks for a document of a job that failed or was cancelled.
        size: Bytes of its documents.
        began: When it was made, by the monotonic clock.
        received: Bytes of its input that have come.
        give_way: Ends its upload; None while there is none.
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
        """Bytes a second of its upload, up to now."""
        return self.received / max(time.monotonic() - self.began, 1e-9)

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it will change."""
        return self.state in ("done", "failed", "cancelled")
