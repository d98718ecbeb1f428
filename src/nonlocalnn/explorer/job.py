"""One job of the explorer, what jobs may take, and what is answered instead."""

from __future__ import annotations

import secrets
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
    """

    upload_bytes: int = 64 << 20
    seconds: float = 60.0
    memory_bytes: int = 4096 << 20
    queued: int = 16
    queued_per_client: int = 4
    kept: int = 32
    kept_bytes: int = 512 << 20


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

    @classmethod
    def begin(cls, client: str, root: Path) -> Job:
        """Return a new job, with a folder in ``root``."""
        identity = secrets.token_urlsafe(16)
        job = cls(client, root / identity, identity)
        job.folder.mkdir()
        return job

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it will change."""
        return self.state in ("done", "failed", "cancelled")
