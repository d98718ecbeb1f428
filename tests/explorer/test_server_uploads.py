"""What is sent to the server: forms that are refused, and uploads that are large, slow or broken off."""

import contextlib
import socket
from contextlib import closing

import pytest
from serving import wait_until

from nonlocalnn.explorer import uploads
from nonlocalnn.explorer.uploads import title_of

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
        ([("file", ("a.png", b"some text")), MODEL], 415, "a.png is none of the images and videos"),
        ([("file", ("a.mp4", b"PK\x03\x04")), ("models", "clips")], 415, "a.mp4 is none of the images"),
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


def raw(port, *lines):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
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
    start = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with closing(raw(client.port, "Transfer-Encoding: chunked")) as connection:
        connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
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
        connection.sendall(b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nxx')
        wait_until(lambda: queue._receiving)
    wait_until(lambda: not queue._receiving)


def test_an_upload_that_is_too_slow(client, queue, monkeypatch):
    monkeypatch.setattr(uploads, "_UPLOAD_SECONDS", 0.2)
    with closing(raw(client.port, "Content-Length: 5000")) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert not queue._receiving


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
