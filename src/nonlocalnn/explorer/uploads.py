"""Receiving the form of a job, with a file or the name of an input, under limits of size and time."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from nonlocalnn._errors import needs
from nonlocalnn.explorer.job import Job, Limits, Refusal, gave_way

with needs(None, "explorer", "the explorer"):
    from python_multipart.exceptions import FormParserError  # Starlette imports it only when a form arrives
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import FormData, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser
    from starlette.requests import ClientDisconnect, Request

# Bytes of a form besides its file: names of models, headers, boundaries.
_FORM_BYTES = 1 << 16
_MOST_FIELDS = 16
_LONGEST_TITLE = 100


@dataclass(frozen=True)
class JobRequest:
    """What a form asks for.

    Args:
        models: Names of models, unchecked.
        input: Name of an input on the server; None with ``upload``.
        upload: Where the received file lies; None with ``input``.
        title: The file's name, without folders.
    """

    models: tuple[str, ...]
    input: str | None
    upload: Path | None
    title: str


async def receive_job(request: Request, job: Job, *, limits: Limits) -> JobRequest:
    """Receive the form of a request.

    Args:
        request: Its body is read.
        job: The file is written to its folder.
        limits: Limits of its size and speed.

    Raises:
        Refusal: The body is no form of the right fields (400), is of another type (415), is too large (413)
            or too slow (408). A declared length that is too large is refused before anything is read, other
            bodies as soon as they pass the limit.
    """
    upload_bytes = limits.upload_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(415, "a job is a form: send multipart/form-data with file or input, and models")
    too_large = Refusal(413, f"the file is larger than the {upload_bytes / (1 << 20):g} MiB that are taken")
    most = upload_bytes + _FORM_BYTES
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        raise too_large
    try:
        async with _limited_time(job, limits.upload_seconds):
            form = await _parse(request, job, most, too_large, limits.upload_pause_seconds)
    except (MultiPartException, FormParserError) as error:
        raise Refusal(400, f"the form cannot be read: {error}") from error
    except ClientDisconnect:
        raise Refusal(400, "the upload was broken off") from None
    try:
        return await _take(form, job.folder, upload_bytes, too_large)
    finally:
        await form.close()


@contextmanager
def refuse_without_room() -> Iterator[None]:
    """Refuse a request if its upload cannot be written: the disk is full, or the folder is gone.

    Raises:
        Refusal: With 507; the log has the reason.
    """
    try:
        yield
    except OSError as error:
        print(f"nonlocalnn explore: an upload cannot be kept: {error}", file=sys.stderr)
        raise Refusal(507, "the server has no room for the file: try again later", retry_after=60) from None


@asynccontextmanager
async def _limited_time(job: Job, seconds: float) -> AsyncGenerator[None, None]:
    """Refuse an upload that takes longer, or that loses its place to another one."""
    refusal = Refusal(408, f"the upload took longer than {seconds:g} seconds")

    def stop() -> None:
        nonlocal refusal
        # The upload may have finished in the meantime.
        if job.give_way is not None:
            refusal = gave_way()
            clock.reschedule(0)

    try:
        async with asyncio.timeout(seconds) as clock:
            loop = asyncio.get_running_loop()
            job.give_way = partial(loop.call_soon_threadsafe, stop)
            try:
                yield
            finally:
                job.give_way = None
    except TimeoutError:
        raise refusal from None


async def _parse(request: Request, job: Job, most: int, too_large: Refusal, pause: float) -> FormData:
    async def counted() -> AsyncGenerator[bytes, None]:
        async with aclosing(request.stream()) as stream:
            while True:
                try:
                    async with asyncio.timeout(pause):
                        chunk = await anext(stream, None)
                except TimeoutError:
                    raise Refusal(408, f"nothing came of the upload for {pause:g} seconds") from None
                if chunk is None:
                    return
                job.received += len(chunk)
                if job.received > most:
                    raise too_large
                yield chunk

    async with aclosing(counted()) as stream:
        parser = MultiPartParser(
            request.headers, stream, max_files=1, max_fields=_MOST_FIELDS, max_part_size=_FORM_BYTES
        )
        return await parser.parse()


async def _take(form: FormData, folder: Path, upload_bytes: int, too_large: Refusal) -> JobRequest:
    """Check the fields of a form, and put its file into a folder."""
    unknown = set(form) - {"file", "input", "models"}
    if unknown:
        raise Refusal(400, "the form may have the fields file, input and models, and has another")
    models, inputs, files = form.getlist("models"), form.getlist("input"), form.getlist("file")
    names = _texts(models)
    if not names:
        raise Refusal(400, "the form must name one model or more in the field models")
    if len(files) + len(inputs) != 1:
        raise Refusal(400, "the form must have either one file or one input")
    if inputs:
        (name,) = _texts(inputs) or ("",)
        return JobRequest(names, name, None, name)
    file = files[0]
    if not isinstance(file, UploadFile):
        raise Refusal(400, "the field file must be a file, with a name")
    if file.size is None or file.size > upload_bytes:
        raise too_large
    if file.size == 0:
        raise Refusal(400, "the file is empty")
    # The name that the client gave is never used as a path.
    upload = folder / "upload"
    await run_in_threadpool(_copy, file.file, upload)
    return JobRequest(names, None, upload, title_of(file.filename or ""))


def _texts(values: Sequence[UploadFile | str]) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str))


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def title_of(name: str) -> str:
    """Return the title of an uploaded file: its name without folders and unprintable characters.

    Example:
        >>> title_of("C:/holidays/cat.png"), title_of("..")
        ('cat.png', '..')
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(character for character in last if character.isprintable()).strip()
    # The end of a name, often a number and a suffix, tells more than its middle.
    if len(printable) > _LONGEST_TITLE:
        printable = printable[: _LONGEST_TITLE - 12] + "..." + printable[-9:]
    return printable or "upload"
