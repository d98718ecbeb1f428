"""The queue of the explorer's jobs: their order, their states, and the results that are kept."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from nonlocalnn.explorer.job import Job, Limits, Refusal, gave_way
from nonlocalnn.explorer.runner import Outcome, Runner
from nonlocalnn.explorer.worker import Explain

# So many ids of dropped jobs are remembered, to say that they were dropped.
_REMEMBERED = 1000


class JobQueue:
    """Takes jobs, runs them one after another in a worker process, and keeps the last documents.

    The worker process is killed when its job is cancelled or passes a limit; the next job gets a new one. As
    a context manager the queue starts, and at the end removes its process and its files. Its methods may be
    called from any thread.

    Args:
        models: The checkpoint, or the run's folder, of each model.
        explain: Makes a document; a function of a module, which the worker process imports.
        limits: Limits of jobs.

    Attributes:
        limits: As given.
    """

    def __init__(self, models: Mapping[str, Path], explain: Explain, *, limits: Limits | None = None) -> None:
        self.limits = Limits() if limits is None else limits
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._receiving: set[Job] = set()
        self._waiting: deque[Job] = deque()
        self._ended: deque[Job] = deque()
        self._dropped: deque[str] = deque(maxlen=_REMEMBERED)
        self._last_seconds = 1.0
        self._is_closing = False
        self._unusable: str | None = None
        self._runner = Runner(models, explain, limits=self.limits, is_closing=lambda: self._is_closing)
        self._thread = threading.Thread(target=self._work, name="explorer-jobs", daemon=True)

    @property
    def kinds(self) -> dict[str, str]:
        """What each model takes, such as "image"; empty until the queue is started."""
        return self._runner.kinds

    def __enter__(self) -> Self:
        """Start the worker process and wait until it has loaded the models.

        Raises:
            ValueError: A model cannot be loaded.
        """
        self._root = Path(tempfile.mkdtemp(prefix="nonlocalnn-explorer-"))
        self._thread.start()
        try:
            with self._changed:
                self._changed.wait_for(lambda: self.kinds or self._unusable is not None)
            if not self.kinds:
                raise ValueError(self._unusable)
        except BaseException:
            # Ctrl-C among others: the block that would close the queue has not begun.
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the worker process and delete every file; a second call does nothing."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        shutil.rmtree(self._root, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        self.close()

    def reserve(self, client: str) -> Job:
        """Return a job that counts as waiting while its input is received; then submit or discard it.

        Args:
            client: Address of who asks.

        If too many jobs wait, in total or from this client, the slowest upload among them loses its place,
        provided that it is slower than ``limits.upload_speed``.

        Raises:
            Refusal: Too many jobs wait, and none loses its place (429); or the server is stopping (503).
        """
        with self._changed:
            if self._is_closing:
                raise Refusal(503, "the server is being stopped")
            most = self.limits.queued_per_client
            self._make_room(
                lambda job: job.client == client,
                most,
                f"{most} of your jobs are waiting already: cancel one, or try again when one is done",
            )
            self._make_room(
                lambda job: True, self.limits.queued, "too many jobs are waiting: try again later"
            )
            job = Job.begin(client, self._root)
            self._receiving.add(job)
            return job

    def _make_room(self, is_counted: Callable[[Job], bool], most: int, reason: str) -> None:
        """Make fewer than ``most`` of the counted jobs wait, or refuse with this reason."""
        if sum(map(is_counted, (*self._receiving, *self._waiting))) < most:
            return
        oldest = time.monotonic() - self.limits.upload_grace_seconds
        slow = [
            job
            for job in self._receiving
            if is_counted(job)
            and job.give_way is not None
            and job.began <= oldest
            and job.speed < self.limits.upload_speed
        ]
        if not slow:
            raise Refusal(429, reason, retry_after=max(1, math.ceil(self._last_seconds)))
        slowest = min(slow, key=lambda job: job.speed)
        self._receiving.remove(slowest)
        assert slowest.give_way is not None
        slowest.give_way()

    def discard(self, job: Job) -> None:
        """Forget a job whose input did not arrive; a job that was submitted stays."""
        with self._changed:
            self._receiving.discard(job)
            if job.state == "receiving":
                shutil.rmtree(job.folder, ignore_errors=True)

    def submit(self, job: Job, path: Path, *, title: str, models: tuple[str, ...]) -> None:
        """Put a reserved job into the queue.

        Args:
            job: The job.
            path: Its input; deleted after the job if it lies in the job's folder.
            title: What the input is called.
            models: Names of the models that explain it.

        Raises:
            Refusal: Its upload lost its place to another one (408).
        """
        with self._changed:
            if job not in self._receiving:
                raise gave_way()
            self._receiving.remove(job)
            job.path, job.title, job.models, job.state = path, title, models, "queued"
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()

    def find(self, identity: str) -> Job:
        """Return a job that was submitted.

        Raises:
            Refusal: There is none (404), or it was dropped for newer ones (410).
        """
        with self._changed:
            if identity in self._dropped:
                raise Refusal(410, "this result was dropped to make room for newer ones: explain it again")
            if identity not in self._jobs:
                raise Refusal(404, "there is no such job")
            return self._jobs[identity]

    def position(self, job: Job) -> int | None:
        """Return a job's place in the queue, 1 for the next; None when it does not wait."""
        with self._changed:
            return self._waiting.index(job) + 1 if job in self._waiting else None

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it.

        Raises:
            Refusal: It has ended (409).
        """
        with self._changed:
            if job.has_ended:
                raise Refusal(409, f"the job has ended already: it is {job.state}")
            # The thread that watches a running job sees the new state, and ends the job.
            job.state, job.reason = "cancelled", "it was cancelled"
            if job in self._waiting:
                self._waiting.remove(job)
                self._put_away(job)

    def document(self, job: Job, model: str) -> Path:
        """Return the file of a document.

        Raises:
            Refusal: The job has none yet, or was cancelled (409); it failed (the job's ``status``); or the
                model is none of its models (404).
        """
        with self._changed:
            if not job.has_ended:
                raise Refusal(409, f"the job is {job.state}: ask again when it is done")
            if job.state != "done":
                raise Refusal(job.status, job.reason or "there is no document")
            if model not in job.models:
                raise Refusal(404, "the job has no document of such a model")
            return job.folder / f"{job.models.index(model)}.json"

    def _work(self) -> None:
        """Run jobs until the queue closes; a worker is made ready before each job arrives."""
        try:
            while not self._is_closing:
                self._prepare()
                job = self._next()
                if job is None:
                    return
                started = time.monotonic()
                self._finish(job, self._runner.run(job))
                self._last_seconds = time.monotonic() - started
        finally:
            self._runner.close()

    def _prepare(self) -> None:
        reason = self._runner.prepare()
        with self._changed:
            self._unusable = reason
            self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for a job and mark it as running; None when the queue closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self._waiting)
            if self._is_closing:
                return None
            job = self._waiting.popleft()
            job.state = "running"
            return job

    def _finish(self, job: Job, outcome: Outcome) -> None:
        with self._changed:
            if job.state != "cancelled":
                job.state = "done" if outcome.reason is None else "failed"
                job.reason, job.status = outcome.reason, outcome.status
            self._put_away(job)

    def _put_away(self, job: Job) -> None:
        """Delete what an ended job no longer needs, and the oldest jobs if too many are kept."""
        if job.path.parent == job.folder:
            job.path.unlink(missing_ok=True)
        if job.state == "done":
            job.size = sum(entry.stat().st_size for entry in job.folder.iterdir())
        else:
            shutil.rmtree(job.folder, ignore_errors=True)
        self._ended.append(job)
        most, most_bytes = self.limits.kept, self.limits.kept_bytes
        # The last one stays, however large it is: somebody has just waited for it.
        while len(self._ended) > 1 and (
            len(self._ended) > most or sum(each.size for each in self._ended) > most_bytes
        ):
            oldest = self._ended.popleft()
            del self._jobs[oldest.id]
            self._dropped.append(oldest.id)
            shutil.rmtree(oldest.folder, ignore_errors=True)
