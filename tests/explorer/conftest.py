"""What tests of pages and of the server share; each file has a browser of its own."""

import contextlib
import tempfile
from contextlib import contextmanager
from pathlib import Path

import documents
import fake_explain
import pytest
from browser import open_browser, open_page
from serving import Client, save_image, save_models, serve, wait_until
from viewer_page import DESKTOP, HURRY, rest

from nonlocalnn.explorer.job import Limits, Refusal
from nonlocalnn.explorer.page import write_page
from videos import write_video

KINDS = {"video": documents.video, "image": documents.image, "sequence": documents.sequence}
LIMITS = Limits(upload_bytes=1 << 20, queued=4, queued_per_client=3)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


@pytest.fixture(scope="module")
def shown():
    """One document of each kind."""
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def addresses(shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for kind, made in shown.items():
        write_page(made.document, folder / f"{kind}.html")
    return {kind: (folder / f"{kind}.html").as_uri() for kind in shown}


@pytest.fixture
def opened(browser, addresses):
    """Open the page of a kind, at rest."""

    @contextmanager
    def open_kind(kind, *, link="", script="", **context):
        window = {**DESKTOP, **context}
        with open_page(browser, addresses[kind] + link, script=HURRY + script, **window) as page:
            rest(page)
            yield page

    return open_kind


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Checkpoints by their names; see ``save_models``."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder of files to choose from on the server."""
    folder = tmp_path_factory.mktemp("inputs")
    save_image(folder / "cat.png")
    write_video(folder / "deep.mp4")
    (folder / "sub folder").mkdir()
    save_image(folder / "sub folder/d\u00fcck & dog.png")
    (folder / "zip.mp4").write_bytes(b"PK\x03\x04 a zip")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="session")
def image(inputs):
    return (inputs / "cat.png").read_bytes()


@pytest.fixture(scope="session")
def server(models, inputs):
    """The port of a server with a stand-in for what explains, and its queue."""
    with serve(models, fake_explain.explain, inputs=inputs, limits=LIMITS) as (port, queue):
        yield port, queue


@pytest.fixture
def queue(server):
    yield server[1]
    # The server notices later than a test that an upload broke off; until then it counts for the next test.
    wait_until(lambda: not server[1]._receiving)


@pytest.fixture
def client(server, queue, inputs):
    """A client; at the end nothing that it was answered may name a place of this machine."""
    client = Client(server[0])
    yield client
    for job in list(queue._jobs.values()):
        with contextlib.suppress(Refusal):  # it has ended
            queue.cancel(job)
    secrets = (str(queue._root), tempfile.gettempdir(), str(inputs), str(Path(__file__).parents[2]))
    for answer in client.answers:
        if not answer.headers["Content-Type"].startswith("text/"):
            assert not [secret for secret in secrets if secret.encode() in answer.body]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["Server"] is None
