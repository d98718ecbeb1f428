"""The explorer's server over HTTP: jobs, limits, errors, and what other sites must not do."""

import contextlib
import json
import os
import re
import socket
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import fake_explain
import load
import pytest
from serving import Client, save_image, save_models, serve, wait_until

from nonlocalnn.explorer import uploads
from nonlocalnn.explorer.guard import Guard, allowed_hosts
from nonlocalnn.explorer.job import Limits, Refusal
from nonlocalnn.explorer.page import SCRIPTS
from nonlocalnn.explorer.uploads import title_of
from videos import write_video

LIMITS = Limits(upload_bytes=1 << 20, queued=4, queued_per_client=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_image(folder / "cat.png")
    write_video(folder / "deep.mp4")
    (folder / "sub folder").mkdir()
    save_image(folder / "sub folder/d\u00fcck & dog.png")
    (folder / "zip.mp4").write_bytes(b"PK\x03\x04 a zip")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def image(inputs):
    return (inputs / "cat.png").read_bytes()


@pytest.fixture(scope="module")
def video(inputs):
    return (inputs / "deep.mp4").read_bytes()


@pytest.fixture(scope="module")
def server(models, inputs):
    with serve(models, fake_explain.explain, inputs=inputs, limits=LIMITS) as (port, queue):
        yield port, queue


@pytest.fixture
def queue(server):
    return server[1]


@pytest.fixture
def client(server, models, inputs):
    """A client; at the end nothing that it was answered may name a place of this machine."""
    port, queue = server
    client = Client(port)
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


def release(queue, identity):
    """Let a job end that is called hold, and wait until all have ended."""
    (queue.find(identity).folder / "go").touch()
    wait_until(lambda: all(job.has_ended for job in list(queue._jobs.values())))


def test_the_whole_life_of_a_job(client, queue, image):
    posted = client.explain("d\u00fcck.png", image, "second", "first")
    assert posted.headers["Location"] == f"/api/jobs/{posted.json['id']}"
    assert posted.json["state"] in ("queued", "running")
    about = client.finish(posted)
    identity = posted.json["id"]
    assert about == {
        "id": identity,
        "state": "done",
        "position": None,
        "step": None,
        "reason": None,
        "title": "d\u00fcck.png",
        "models": ["second", "first"],
    }
    for model in ("first", "second"):
        document = client.document(identity, model)
        assert (document.status, document.headers["Content-Type"]) == (200, "application/json")
        assert (document.json["model"], document.json["title"]) == (model, "d\u00fcck.png")
        assert document.json["bytes"] == len(image)
    page = client.document(identity, "second", what="page")
    assert page.body.startswith(b"<!DOCTYPE html>")
    assert b'"model":"second"' in page.body
    assert page.headers["Content-Disposition"] == "attachment; filename*=UTF-8''d%C3%BCck.png%20second.html"
    assert not (queue.find(identity).folder / "upload").exists()


def test_what_there_is_to_choose(client):
    about = client.get("/api/models").json
    kinds = {"first": "image", "second": "image", "clips": "video"}
    assert about["models"] == [{"name": name, "kind": kind} for name, kind in kinds.items()]
    assert about["upload_bytes"] == 1 << 20
    expected = ["cat.png", "deep.mp4", "sub folder/d\u00fcck & dog.png", "zip.mp4"]
    assert client.get("/api/inputs").json == {"inputs": expected}


@pytest.mark.parametrize(
    ("name", "model"),
    [("cat.png", "first"), ("deep.mp4", "clips"), ("sub folder/d\u00fcck & dog.png", "second")],
)
def test_inputs_of_the_server(client, inputs, name, model):
    posted = client.post(("input", name), ("models", model))
    assert client.finish(posted)["state"] == "done"
    document = client.document(posted.json["id"], model).json
    assert (document["title"], document["bytes"]) == (name, (inputs / name).stat().st_size)
    assert (inputs / name).exists()


def test_the_queue_and_cancelling_in_it(client, image):
    running = client.explain("hold.png", image, "first")
    identity = running.json["id"]
    wait_until(lambda: client.get(f"/api/jobs/{identity}").json["step"] == "explaining with first (1 of 1)")
    waiting = [client.explain(f"{number}.png", image, "first").json for number in range(3)]
    assert [job["position"] for job in waiting] == [1, 2, 3]
    assert client.document(identity, "first").status == 409
    busy = client.explain("4.png", image, "first")
    assert (busy.status, int(busy.headers["Retry-After"]) >= 1) == (429, True)
    assert "3 of your jobs" in busy.error
    other = Client(client.port, address="127.0.0.9")
    assert other.explain("5.png", image, "first").status == 202
    assert "too many jobs" in Client(client.port, address="127.0.0.10").explain("6.png", image, "first").error

    assert client.ask("DELETE", f"/api/jobs/{waiting[0]['id']}").json["state"] == "cancelled"
    assert client.get(f"/api/jobs/{waiting[1]['id']}").json["position"] == 1
    cancelled = client.ask("DELETE", f"/api/jobs/{identity}")
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert client.document(identity, "first").error == "it was cancelled"
    wait_until(lambda: client.get(f"/api/jobs/{waiting[1]['id']}").json["state"] == "done")
    again = client.ask("DELETE", f"/api/jobs/{waiting[1]['id']}")
    assert (again.status, "it is done" in again.error) == (409, True)


@pytest.mark.parametrize(
    ("title", "status", "says"),
    [
        ("refused-.png", 422, "cannot read image refused-.png: it is no good"),
        ("leak.png", 500, "an unexpected error, which the server's log tells of"),
        ("bug.png", 500, "an unexpected error, which the server's log tells of"),
        ("sleep-9000.png", 504, "longer than the 0.5 seconds"),
    ],
)
def test_jobs_that_fail(client, queue, image, title, status, says, monkeypatch):
    if status == 504:
        monkeypatch.setattr(queue._runner, "_limits", replace(LIMITS, seconds=0.5))
    posted = client.explain(title, image, "first")
    about = client.finish(posted)
    assert (about["state"], says in about["reason"]) == ("failed", True)
    for what in ("document", "page"):
        answer = client.document(posted.json["id"], "first", what)
        assert (answer.status, answer.error) == (status, about["reason"])


def test_results_that_were_dropped(client, queue, image, monkeypatch):
    posted = client.explain("old.png", image, "first")
    client.finish(posted)
    monkeypatch.setattr(queue, "limits", replace(queue.limits, kept=1))
    client.finish(client.explain("new.png", image, "first"))
    identity = posted.json["id"]
    for path in ("", "/document/first", "/page/first"):
        answer = client.get(f"/api/jobs/{identity}{path}")
        assert (answer.status, "dropped to make room" in answer.error) == (410, True)
    assert client.ask("DELETE", f"/api/jobs/{identity}").status == 410


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


def test_an_upload_may_be_as_large_as_the_limit(client, image):
    padded = image + bytes(LIMITS.upload_bytes - len(image))
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


def test_a_body_of_unknown_length_is_stopped_at_the_limit(client, queue):
    start = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with closing(raw(client.port, "Transfer-Encoding: chunked")) as connection:
        connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        # The connection is cut off a moment after the answer; else this would never end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 8 << 30:
                connection.sendall(chunk)
                sent += len(chunk)
    assert LIMITS.upload_bytes < sent < 8 << 30
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
    ("method", "path", "status"),
    [
        ("GET", "/api/jobs/absent", 404),
        ("DELETE", "/api/jobs/absent", 404),
        ("GET", "/api/jobs/absent/document/first", 404),
        ("GET", "/api/jobs/absent/page/first", 404),
        ("GET", "/absent", 404),
        ("GET", "/api/jobs", 405),
        ("PUT", "/api/models", 405),
        *(
            ("GET", f"/static/{name}", 404)
            for name in (
                "",
                "page.html",
                "explorer.html",
                "..%2Fserver.py",
                "%2Fetc%2Fpasswd",
                "../server.py",
            )
        ),
    ],
)
def test_errors_are_json(client, method, path, status):
    answer = client.ask(method, path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.error


def test_a_model_that_the_job_does_not_have(client, image):
    posted = client.explain("cat.png", image, "first")
    client.finish(posted)
    assert client.document(posted.json["id"], "second").status == 404


def test_an_unexpected_error_is_answered_in_general_words(client, queue, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("no such file: /etc/secret")

    monkeypatch.setattr(queue, "find", broken)
    answer = client.get("/api/jobs/x")
    assert (answer.status, answer.error) == (500, "an unexpected error, which the server's log tells of")
    wait_until(lambda: "/etc/secret" in caplog.text)


def test_pages_and_their_parts(client):
    index = client.get("/")
    assert index.headers["Content-Type"] == "text/html; charset=utf-8"
    text = index.body.decode()
    assert "{{" not in text
    named = re.findall(r'(?:src|href)="(/[^"]*)"', text)
    assert named == [
        "/static/viewer.css",
        "/static/explorer.css",
        *(f"/static/{name}" for name in SCRIPTS),
        "/static/explorer.js",
    ]
    for path in named:
        answer = client.get(path)
        kind = "text/css" if path.endswith("css") else "text/javascript"
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert answer.body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example:8080", 400),
        ("evil.example@localhost", 400),
        ("192.168.0.1", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_the_server_answers_to_its_own_names_only(client, host, status):
    answer = client.get("/api/models", Host=host)
    assert answer.status == status
    if status == 400:
        assert answer.error == "the server is not called by this name"


@pytest.mark.parametrize(
    ("host", "name", "is_ours"),
    [
        ("0.0.0.0", "192.168.0.1:8080", True),
        ("::", "[fd00::1]", True),
        ("0.0.0.0", "evil.example", False),
        ("Example.org", "example.org", True),
        ("192.168.0.7", "192.168.0.7", True),
        ("192.168.0.7", "192.168.0.8", False),
    ],
)
def test_names_of_a_server_for_others(host, name, is_ours):
    hosts, any_address = allowed_hosts(host)
    assert Guard(None, hosts=hosts, any_address=any_address)._is_ours(name) is is_ours


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:{port}"}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
    ids=str,
)
def test_other_sites_cannot_change_anything(client, queue, image, headers, status):
    headers = {name: value.format(port=client.port) for name, value in headers.items()}
    posted = client.post(("file", ("cat.png", image)), ("models", "first"), **headers)
    assert posted.status == status
    blocking = client.explain("hold.png", image, "first").json["id"]
    mine = client.explain("cat.png", image, "first").json["id"]
    answer = client.ask("DELETE", f"/api/jobs/{mine}", headers=headers)
    assert answer.status == (200 if status == 202 else 403)
    release(queue, blocking)


def test_a_forwarded_address_is_no_other_client(client, queue, image):
    blocking = client.explain("hold.png", image, "first").json["id"]
    fields = [("file", ("cat.png", image)), ("models", "first")]
    answers = [client.post(*fields, **{"X-Forwarded-For": f"10.0.0.{number}"}) for number in range(5)]
    assert (answers[-1].status, "3 of your jobs" in answers[-1].error) == (429, True)
    release(queue, blocking)


def test_load_loses_nothing(server, inputs, capsys):
    port, _ = server
    words = ["--url", f"http://127.0.0.1:{port}", "--file", str(inputs / "cat.png"), "--clients", "8"]
    words += ["--requests", "24", "--models", "first", "second", "--server-pid", str(os.getpid())]
    assert load.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcomes"] == {"done": 24}
    assert 0 < report["median_seconds"] <= report["p95_seconds"] <= report["seconds"]
    assert report["server_mib_before"] > 0


def test_load_reports_what_failed(server, tmp_path, image, capsys):
    port, _ = server
    (tmp_path / "bug.png").write_bytes(image)
    (tmp_path / "text.png").write_text("text")
    for name, outcome in (("bug.png", "failed"), ("text.png", "status 415")):
        words = ["--url", f"http://127.0.0.1:{port}", "--file", str(tmp_path / name), "--requests", "2"]
        assert load.main([*words, "--clients", "1"]) == 1
        assert json.loads(capsys.readouterr().out)["outcomes"] == {outcome: 2}


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
