"""A server of the explorer in a thread, a client of it, and models for both."""

import http.client
import json
import socket
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import torch
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.explorer.jobs import JobQueue
from nonlocalnn.explorer.server import create_app, make_server

CLASSES = [str(digit) for digit in range(10)]


def save_models(folder):
    """Checkpoints of two small networks for images and one for videos, by their names."""
    torch.manual_seed(0)
    facts = {"classes": CLASSES, "image_size": [28, 28], "channels": 1}
    clips = {"classes": CLASSES, "sample_shape": [3, 8, 32, 32], "stride": 1}
    made = {"first": ("nl_digits", facts), "second": ("nl_digits", facts), "clips": ("nl2_c2d_tiny", clips)}
    paths = {}
    for name, (network, metadata) in made.items():
        paths[name] = folder / f"{name}.safetensors"
        nl.save_checkpoint(randomize_(nl.create_model(network)), paths[name], metadata=metadata)
    return paths


def save_image(path, size=(28, 28)):
    Image.new("L", size, 90).save(path)
    return path


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        (key,) = self.json
        assert key == "error"
        return self.json["error"]


def form_of(fields):
    """The body of a form and its type; a field is a name with a text, or with a file's name and content."""
    parts = []
    for name, value in fields:
        filename, content = value if isinstance(value, tuple) else (None, value.encode())
        named = "" if filename is None else f'; filename="{filename}"'
        parts.append(f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode())
        parts.append(content + b"\r\n")
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


class Client:
    """Asks a server; every answer is kept, so that a test can search all of them."""

    def __init__(self, port, *, address="127.0.0.1"):
        self.port = port
        self.answers = []
        self._source = (address, 0)

    def ask(self, method, path, body=None, headers=None):
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=self._source)
        ) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        self.answers.append(answer)
        return answer

    def get(self, path, **headers):
        return self.ask("GET", path, headers=headers)

    def post(self, *fields, **headers):
        body, kind = form_of(fields)
        return self.ask("POST", "/api/jobs", body, {"Content-Type": kind, **headers})

    def explain(self, title, content, *models):
        return self.post(("file", (title, content)), *(("models", model) for model in models))

    def finish(self, posted):
        """Wait for the end of a job; the answer to its POST comes in."""
        assert posted.status == 202, posted.body
        return wait_until(lambda: self._ended(posted.json["id"]))

    def _ended(self, identity):
        about = self.get(f"/api/jobs/{identity}").json
        return about if about["state"] in ("done", "failed", "cancelled") else None

    def document(self, identity, model, what="document"):
        return self.get(f"/api/jobs/{identity}/{what}/{quote(model)}")


def wait_until(found, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.01)


def release(queue, identity):
    """Let a job end that is called hold, and wait until all have ended."""
    (queue.find(identity).folder / "go").touch()
    wait_until(lambda: all(job.has_ended for job in list(queue._jobs.values())))


@contextmanager
def serve(models, explain, *, inputs=None, limits=None, connections=None, host="127.0.0.1"):
    """A running server; gives its port and its queue."""
    with JobQueue(models, explain, limits=limits) as queue:
        listening = socket.create_server(("127.0.0.1", 0))
        server = make_server(create_app(queue, inputs=inputs, host=host), limits=connections)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield listening.getsockname()[1], queue
        finally:
            server.should_exit = True
            thread.join()
