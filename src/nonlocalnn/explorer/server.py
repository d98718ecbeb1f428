"""The explorer's server: its pages, the interface that they call, and one JSON form for all errors."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nonlocalnn._errors import needs
from nonlocalnn.explorer.admission import ending_of, find_input, kinds_of, list_inputs
from nonlocalnn.explorer.connections import BACKLOG, Connection, ConnectionLimits
from nonlocalnn.explorer.guard import Guard, allowed_hosts
from nonlocalnn.explorer.job import Job, Refusal
from nonlocalnn.explorer.jobs import JobQueue
from nonlocalnn.explorer.page import SCRIPTS, STYLES, build_page
from nonlocalnn.explorer.uploads import JobRequest, receive_job, refuse_without_room

with needs(None, "explorer", "the explorer"):
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

_MOST_MODELS = 2
_MOST_UNACCEPTED = 1024
# How long a refused client may go on sending before the connection is closed, and how long it may pause.
_DRAIN_SECONDS, _PAUSE_SECONDS = 2.0, 0.25
_STATIC = ("explorer.css", "explorer.js", STYLES, *SCRIPTS)
_TYPES = {"css": "text/css", "js": "text/javascript"}
_ARTICLES = {"image": "an image", "video": "a video", "sequence": "a sequence", "volume": "a volume"}
# Of these the browser makes thumbnails.
_PICTURES = ("image", "video")


def create_app(queue: JobQueue, *, inputs: Path | None, host: str) -> Guard:
    """Return the server as an ASGI application.

    Args:
        queue: A queue that was started; close it after the server.
        inputs: Folder of files to choose from.
        host: What the server will listen on. Requests with other host names, except local ones, are refused.
    """
    explorer = _Explorer(queue, inputs)
    routes = [
        Route("/", explorer.index),
        Route("/static/{name}", explorer.static),
        Route("/api/models", explorer.models),
        Route("/api/inputs", explorer.inputs),
        Route("/api/inputs/{name:path}", explorer.input),
        Route("/api/jobs", explorer.submit, methods=["POST"]),
        Route("/api/jobs/{id}", explorer.job, methods=["GET"]),
        Route("/api/jobs/{id}", explorer.cancel, methods=["DELETE"]),
        Route("/api/jobs/{id}/document/{model}", explorer.document),
        Route("/api/jobs/{id}/page/{model}", explorer.page),
    ]

    app = Starlette(
        routes=routes,
        exception_handlers={Refusal: _refuse, HTTPException: _refuse, Exception: _fail},
    )
    hosts, any_address = allowed_hosts(host)
    return Guard(app, hosts=hosts, any_address=any_address)


def make_server(app: Guard, *, limits: ConnectionLimits | None = None) -> uvicorn.Server:
    """Return a server of the application, whose ``run(sockets=[...])`` serves until a signal arrives.

    Raises:
        OSError: This process may have too few file handles.
    """
    limits = ConnectionLimits() if limits is None else limits
    return _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Else a client could give another address by a header.
            proxy_headers=False,
            ws="none",
            http=type("LimitedConnection", (Connection,), {"limits": limits}),
            # So many the event loop accepts in one turn, before they are counted.
            backlog=BACKLOG,
            lifespan="off",
            timeout_graceful_shutdown=math.ceil(limits.closing_seconds) + 1,
        )
    )


class _Server(uvicorn.Server):
    """A server at which more clients may wait to be accepted than the event loop accepts in one turn."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_MOST_UNACCEPTED)


class _Explorer:
    """The handlers of the routes."""

    def __init__(self, queue: JobQueue, inputs: Path | None) -> None:
        self._queue = queue
        self._inputs = inputs
        folder = files("nonlocalnn.explorer") / "static"
        self._static = {name: (folder / name).read_bytes() for name in _STATIC}
        scripts = "\n".join(f'<script src="/static/{name}" defer></script>' for name in SCRIPTS)
        self._index = (folder / "explorer.html").read_text(encoding="utf-8").replace("{{scripts}}", scripts)

    async def index(self, _: Request) -> Response:
        return HTMLResponse(self._index)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise Refusal(404, "there is no such file")
        return Response(self._static[name], media_type=_TYPES[name.rpartition(".")[2]])

    async def models(self, _: Request) -> Response:
        listed = [{"name": name, "kind": kind} for name, kind in self._queue.kinds.items()]
        limits = self._queue.limits
        return JSONResponse(
            {"models": listed, "upload_bytes": limits.upload_bytes, "seconds": limits.seconds}
        )

    async def inputs(self, _: Request) -> Response:
        return JSONResponse({"inputs": await run_in_threadpool(self._listed)})

    def _listed(self) -> list[dict[str, str | None]]:
        """Return the files to choose from, and what each is by its content; None where it is nothing."""
        names = [] if self._inputs is None else list_inputs(self._inputs)
        kinds = {name: self._find(name)[1] for name in names}
        return [{"name": name, "kind": kind[0] if kind else None} for name, kind in kinds.items()]

    def _find(self, name: str) -> tuple[Path | None, tuple[str, ...]]:
        """Return a file of the folder of inputs, and what it can be read as."""
        path = None if self._inputs is None else find_input(self._inputs, name)
        try:
            return path, () if path is None else kinds_of(path)
        except OSError:
            # It was there a moment ago.
            return None, ()

    async def input(self, request: Request) -> Response:
        """Send a file as it is, for a thumbnail: only the browser and the worker decode foreign files."""
        path, kinds = await run_in_threadpool(self._find, request.path_params["name"])
        if path is None or not set(kinds) & set(_PICTURES):
            raise Refusal(404, "there is no such input")
        return FileResponse(path)

    async def submit(self, request: Request) -> Response:
        # The place in the queue is reserved first: uploads without one would fill the disk.
        with refuse_without_room():
            job = self._queue.reserve("" if request.client is None else request.client.host)
        try:
            with refuse_without_room():
                asked = await receive_job(request, job, limits=self._queue.limits)
            models = self._chosen(asked.models)
            path = await run_in_threadpool(self._path, asked, models)
            if await request.is_disconnected():
                # Cancelled, or gone: nobody would ask for the result.
                raise Refusal(400, "the connection was closed before the job began")
            self._queue.submit(job, path, title=asked.title, models=models)
        finally:
            self._queue.discard(job)
        return JSONResponse(self._about(job), 202, headers={"Location": f"/api/jobs/{job.id}"})

    def _chosen(self, names: tuple[str, ...]) -> tuple[str, ...]:
        models = tuple(dict.fromkeys(names))
        if any(name not in self._queue.kinds for name in models):
            raise Refusal(400, f"models are {', '.join(self._queue.kinds)}; another one was asked for")
        if len(models) > _MOST_MODELS:
            raise Refusal(400, f"a job takes up to {_MOST_MODELS} models; {len(models)} were asked for")
        return models

    def _path(self, asked: JobRequest, models: tuple[str, ...]) -> Path:
        """Return the file that is asked for, if the models take files of its kind."""
        if asked.input is not None:
            path, kinds = self._find(asked.input)
        else:
            assert asked.upload is not None, "a form has either"
            path, kinds = asked.upload, kinds_of(asked.upload)
            # Read by its ending, which is that of its content: the name that the client gave decides nothing.
            path = path.rename(path.with_name(path.name + ending_of(path)))
        if path is None:
            raise Refusal(404, "there is no such input")
        if not kinds:
            raise Refusal(
                415,
                f"{asked.title} is none of the files that are read here, whatever its name (images: PNG, "
                "JPEG, BMP, WebP, GIF, TIFF; videos: mp4, mov, mkv, webm, avi, mpg, wmv, flv, ogv; "
                "sequences: .npy, .csv; volumes: .nii, .nii.gz, .npy)",
            )
        for name in models:
            wanted = self._queue.kinds[name]
            if wanted not in kinds:
                raise Refusal(
                    415, f"{asked.title} is {_ARTICLES[kinds[0]]}, and the model {name} takes {wanted}s"
                )
        return path

    def _about(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "state": job.state,
            "position": self._queue.position(job),
            "step": job.step if job.state == "running" else None,
            "reason": job.reason,
            "title": job.title,
            "models": job.models,
        }

    async def job(self, request: Request) -> Response:
        return JSONResponse(self._about(self._queue.find(request.path_params["id"])))

    async def cancel(self, request: Request) -> Response:
        job = self._queue.find(request.path_params["id"])
        self._queue.cancel(job)
        return JSONResponse(self._about(job))

    async def document(self, request: Request) -> Response:
        return Response(await self._read(request), media_type="application/json")

    async def page(self, request: Request) -> Response:
        content = await self._read(request)
        page = await run_in_threadpool(lambda: build_page(json.loads(content)))
        title = self._queue.find(request.path_params["id"]).title
        name = quote(f"{Path(title).name} {request.path_params['model']}.html", safe="")
        return HTMLResponse(page, headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}"})

    async def _read(self, request: Request) -> bytes:
        identity, model = request.path_params["id"], request.path_params["model"]
        path = self._queue.document(self._queue.find(identity), model)
        try:
            return await run_in_threadpool(path.read_bytes)
        except FileNotFoundError:
            # The job has just been dropped; this raises the error that says so.
            self._queue.find(identity)
            raise


class _RefusalResponse(JSONResponse):
    """An error that is sent before the whole request has arrived; then the connection is closed.

    Closing a connection with unread data resets it, and a client that sends everything before it reads would
    not see the response. So, for a moment, incoming data is read and thrown away.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        until = time.monotonic() + _DRAIN_SECONDS
        more = True
        while more and time.monotonic() < until:
            try:
                message = await asyncio.wait_for(receive(), _PAUSE_SECONDS)
            except TimeoutError:
                break
            more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, Refusal):
        retry = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        response = _RefusalResponse if request.method == "POST" else JSONResponse
        return response({"error": str(error)}, error.status, headers=retry)
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _fail(_: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, and uvicorn writes it to the log.
    return JSONResponse({"error": "an unexpected error, which the server's log tells of"}, 500)
