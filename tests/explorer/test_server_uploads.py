"""What is sent to the server: forms that are refused, and uploads that are large, slow or broken off."""

import contextlib
import errno
import http.client
import json
import select
import socket
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from serving import Client, form_of, wait_until
from starlette.formparsers import MultiPartParser

import nonlocalnn.explorer.server as server_module
from nonlocalnn.explorer.job import Job, Limits, Refusal
from nonlocalnn.explorer.uploads import title_of

START = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
FILE, MODEL = ("file", ("cat.png", b"GIF89a")), ("models", "first")


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ([FILE], 400, "must name one model"),
        ([MODEL], 400, "either one file or one input"),
        ([FILE, MODEL, ("input", "cat.png")], 400, "either one file or one input"),
        ([FILE, FILE, MODEL], 400, "Too many files"),
        ([("input", "cat.png"), ("input", "cat.png"), MODEL], 400, "either one file or one input"),
        ([("file", "cat.png"), MODEL], 400, "must be a file"),
        ([("file", ("cat.png", b"")), MODEL], 400, "the file is empty"),
        ([FILE, MODEL, ("more", "x")], 400, "has another"),
        ([FILE, *[MODEL] * 17], 400, "Too many fields"),
        ([FILE, ("models", "third")], 400, "models are first, second, clips"),
        ([FILE, *(("models", name) for name in ("first", "second", "clips"))], 400, "up to 2 models"),
        ([FILE, ("models", "x" * 70_000)], 400, "exceeded maximum size"),
        ([("file", ("a.png", b"some text")), MODEL], 415, "a.png is none of the files"),
        ([("file", ("a.mp4", b"PK\x03\x04")), ("models", "clips")], 415, "a.mp4 is none of the files"),
        (
            [("file", ("a.mp4", b"\x89PNG\r\n\x1a\n")), ("models", "clips")],
            415,
            "is an image, and the model clips",
        ),
        (
            [("file", ("a.png", b"\x1a\x45\xdf\xa3")), MODEL],
            415,
            "is a video, and the model first takes images",
        ),
        ([("input", "zip.mp4"), ("models", "clips")], 415, "zip.mp4 is none of"),
        ([("input", "../cat.png"), MODEL], 404, "no such input"),
        ([("input", "/etc/passwd"), MODEL], 404, "no such input"),
        ([("input", "notes.txt"), MODEL], 404, "no such input"),
        ([("input", "absent.png"), MODEL], 404, "no such input"),
        ([("input", ("cat.png", b"cat.png")), MODEL], 404, "no such input"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_forms_that_are_refused(client, queue, fields, status, says):
    answer = client.post(*fields)
    assert (answer.status, says in answer.error) == (status, True), answer.body
    assert not queue._receiving


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"{}", "application/json", 415, "multipart/form-data"),
        (b"models=first", "application/x-www-form-urlencoded", 415, "multipart/form-data"),
        (b"", "", 415, "multipart/form-data"),
        (b"--edge", "multipart/form-data", 400, "Missing boundary"),
        (b"no form", "multipart/form-data; boundary=edge", 400, "the form cannot be read"),
        (
            b"--edge\r\n\r\nx\r\n--edge--",
            "multipart/form-data; boundary=edge",
            400,
            '"name" must be provided',
        ),
    ],
    ids=["json", "url-encoded", "none", "no boundary", "damaged", "no name"],
)
def test_bodies_that_are_no_forms(client, body, kind, status, says):
    answer = client.ask("POST", "/api/jobs", body, {"Content-Type": kind})
    assert (answer.status, says in answer.error) == (status, True), answer.body


def test_an_upload_may_be_as_large_as_the_limit(client, queue, image):
    padded = image + bytes(queue.limits.upload_bytes - len(image))
    assert client.finish(client.explain("cat.png", padded, "first"))["state"] == "done"
    answer = client.explain("cat.png", padded + b"\0", "first")
    assert (answer.status, answer.error) == (413, "the file is larger than the 1 MiB that are taken")


def raw(port, *lines, address="127.0.0.1"):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0))
    head = ("POST /api/jobs HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines)
    connection.sendall(
        "\r\n".join((*head, "Content-Type: multipart/form-data; boundary=edge", "", "")).encode()
    )
    return connection


def test_a_length_that_is_too_large_is_refused_before_the_body_comes(client):
    with closing(raw(client.port, f"Content-Length: {2 << 30}")) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_stopped_at_the_limit(client, queue, monkeypatch):
    # Else the server would go on reading for a moment.
    monkeypatch.setattr("nonlocalnn.explorer.server._DRAIN_SECONDS", 0)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with closing(raw(client.port, "Transfer-Encoding: chunked")) as connection:
        connection.sendall(b"%x\r\n%s\r\n" % (len(START), START))
        # The connection is cut off with the answer; else this would go on until the end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 1 << 29:
                connection.sendall(chunk)
                sent += len(chunk)
    # The sockets on the way hold some megabytes.
    assert queue.limits.upload_bytes < sent < 1 << 26
    assert not queue._receiving


def test_a_client_that_sends_all_before_it_listens_gets_its_answer(client, image):
    # More than what the sockets on the way hold.
    answer = client.explain("cat.png", image + bytes(30 << 20), "first")
    assert answer.status == 413


def test_an_upload_that_is_broken_off_leaves_nothing(client, queue):
    with closing(raw(client.port, "Content-Length: 5000")) as connection:
        connection.sendall(START + b"xx")
        wait_until(lambda: queue._receiving)
    wait_until(lambda: not queue._receiving)


def begin_upload(port, address="127.0.0.1", length=5000):
    """A connection on which the first bytes of a file have come, and no more."""
    connection = raw(port, f"Content-Length: {length}", address=address)
    connection.sendall(START + b"xx")
    return connection


def answer_to(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read()), response.headers


@pytest.fixture
def limit(queue, monkeypatch):
    """Change limits of the server."""
    return lambda **changes: monkeypatch.setattr(queue, "limits", replace(queue.limits, **changes))


def test_how_long_an_upload_may_take():
    # An hour is no limit, and seconds would stop people with slow lines.
    limits = Limits()
    assert (limits.upload_seconds, limits.upload_pause_seconds) == (300, 20)
    assert (limits.upload_speed, limits.upload_grace_seconds) == (256 << 10, 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"upload_seconds": 0.3}, "the upload took longer than 0.3 seconds"),
        ({"upload_pause_seconds": 0.2}, "nothing came of the upload for 0.2 seconds"),
    ],
    ids=["in all", "a pause"],
)
def test_an_upload_that_is_too_slow(client, queue, limit, changes, says):
    limit(**changes)
    with closing(begin_upload(client.port)) as connection:
        status, answer, _ = answer_to(connection)
        assert (status, answer) == (408, {"error": says})
    wait_until(lambda: not queue._receiving)


def test_a_slow_upload_that_never_pauses_ends_too(client, queue, limit):
    limit(upload_seconds=0.4, upload_pause_seconds=0.3)
    with closing(begin_upload(client.port)) as connection:
        until = time.monotonic() + 5
        connection.setblocking(False)
        while time.monotonic() < until and not select.select([connection], [], [], 0.05)[0]:
            connection.send(b"x")
        connection.setblocking(True)
        assert answer_to(connection)[1] == {"error": "the upload took longer than 0.4 seconds"}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.77"], ids=["the same client", "another"])
def test_slow_uploads_give_way_to_a_new_one(client, queue, limit, image, address):
    # Four fill the queue, and three are what one client may have.
    count = 3 if address == "127.0.0.1" else 4
    limit(upload_grace_seconds=0.1)
    with ExitStack() as stack:
        slow = [
            stack.enter_context(closing(begin_upload(client.port, f"127.0.0.{1 + number // 3}")))
            for number in range(count)
        ]
        wait_until(lambda: len(queue._receiving) == count)
        for connection in slow[1:]:
            connection.sendall(b"x" * 1000)
        # The first is the slowest now, and its folder is there.
        wait_until(
            lambda: sorted(job.received > 1000 for job in queue._receiving) == [False] + [True] * (count - 1)
        )
        first = next(job for job in queue._receiving if job.received < 1000)
        time.sleep(0.15)
        assert Client(client.port, address=address).explain("cat.png", image, "first").status == 202
        status, answer, head = answer_to(slow[0])
        assert (status, "too slow while others waited" in answer["error"]) == (408, True)
        assert head["Retry-After"] == "60"
        wait_until(lambda: not first.folder.exists())
        assert len(queue._receiving) == count - 1


@pytest.mark.parametrize(
    "changes",
    [{"upload_grace_seconds": 60}, {"upload_grace_seconds": 0, "upload_speed": 1}],
    ids=["young", "fast"],
)
def test_uploads_that_are_young_or_fast_keep_their_place(client, queue, limit, image, changes):
    limit(**changes)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(closing(begin_upload(client.port)))
        wait_until(lambda: sum(job.received > 0 for job in queue._receiving) == 3)
        assert client.explain("cat.png", image, "first").status == 429
        assert len(queue._receiving) == 3


@pytest.mark.slow
def test_slow_uploads_of_others_do_not_give_way_to_who_has_enough(client, queue, limit, image):
    limit(upload_grace_seconds=0)
    with closing(begin_upload(client.port, "127.0.0.9")):
        wait_until(lambda: queue._receiving)
        held = [client.explain("hold.png", image, "first")]
        wait_until(lambda: not queue._waiting)  # the first one runs
        held += [client.explain("hold.png", image, "first") for _ in range(3)]
        assert [each.status for each in held] == [202, 202, 202, 202]
        wait_until(lambda: len(queue._waiting) == 3)
        busy = client.explain("cat.png", image, "first")
        assert (busy.status, "3 of your jobs" in busy.error) == (429, True)
        assert len(queue._receiving) == 1


def test_who_leaves_before_the_job_begins_leaves_none(client, queue, image, monkeypatch):
    came, gone, kinds_of = threading.Event(), threading.Event(), server_module.kinds_of

    def slowly(path):
        came.set()
        assert gone.wait(60)
        return kinds_of(path)

    monkeypatch.setattr(server_module, "kinds_of", slowly)
    before = set(queue._jobs)
    body, kind = form_of([("file", ("cat.png", image)), ("models", "first")])
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)) as connection:
        connection.request("POST", "/api/jobs", body, {"Content-Type": kind})
        assert came.wait(60)
        (job,) = queue._receiving
    # The server learns of the end by its loop, which the thread that looks at the file leaves free.
    assert client.get("/api/models").status == 200
    gone.set()
    wait_until(lambda: not queue._receiving)
    assert set(queue._jobs) == before
    assert not job.folder.exists()


def test_an_upload_that_ends_while_it_gives_way_is_no_job(queue, tmp_path):
    job = queue.reserve("127.0.0.1")
    queue._receiving.remove(job)
    with pytest.raises(Refusal, match="too slow while others waited") as caught:
        queue.submit(job, tmp_path, title="cat.png", models=("first",))
    assert caught.value.status == 408
    queue.discard(job)
    assert not job.folder.exists()


@pytest.mark.parametrize("where", ["while it comes", "when it is put away", "before it comes"])
def test_a_full_disk_is_one_line(client, queue, image, monkeypatch, capfd, where):
    begin = Job.begin

    def begin_full(client, root):
        if where == "before it comes":
            raise OSError(errno.ENOSPC, "No space left on device")
        job = begin(client, root)
        if where == "when it is put away":
            (job.folder / "upload").symlink_to("/dev/full")
        return job

    monkeypatch.setattr(Job, "begin", begin_full)
    if where == "while it comes":
        monkeypatch.setattr(MultiPartParser, "spool_max_size", 10)
        full = Path("/dev/full")
        monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: full.open("w+b", 0))
    answer = client.explain("cat.png", image, "first")
    assert (answer.status, answer.error) == (507, "the server has no room for the file: try again later")
    assert answer.headers["Retry-After"] == "60"
    assert not queue._receiving
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("nonlocalnn explore: an upload cannot be kept: [Errno 28] No space left on device")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("a/b\\c.png", "c.png"),
        ("/etc/passwd", "passwd"),
        ("", "upload"),
        ("a/", "upload"),
        ("a\x00\n\x1b[1m.png", "a[1m.png"),
        ("x" * 300 + ".png", "x" * 88 + "..." + "xxxxx.png"),
    ],
)
def test_titles_of_uploads(name, title):
    assert title_of(name) == title
