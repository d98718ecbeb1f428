"""Connections whose clients keep the server waiting, and too many of them."""

import http.client
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import fake_explain
import pytest
from serving import Client, serve, wait_until

from nonlocalnn.explorer import connections
from nonlocalnn.explorer.connections import ConnectionLimits, most_connections

SHORT = ConnectionLimits(connections=8, request_seconds=0.4, answer_seconds=0.4, closing_seconds=0.2)
HALF = b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-More: "
WHOLE = b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def server(models, inputs):
    with serve(models, fake_explain.explain, inputs=inputs, connections=SHORT) as (port, queue):
        yield port, queue


def connect(port, sent=b""):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def read_all(connection):
    """What comes until the end; a reset is an end."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def is_open(connection):
    return not select.select([connection], [], [], 0)[0]


@pytest.mark.parametrize("sent", [b"", b"GET", HALF], ids=["nothing", "a word", "half"])
def test_headers_that_do_not_come(client, sent):
    with closing(connect(client.port, sent)) as connection:
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(body) == {"error": "the request did not come in time"}


def test_headers_that_drip_in_have_one_limit_in_all(client):
    with closing(connect(client.port, HALF)) as connection:
        for _ in range(200):
            if not is_open(connection):
                break
            connection.send(b"x")
            select.select([connection], [], [], 0.05)
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_has_the_same_limit(client):
    with closing(connect(client.port, WHOLE + HALF)) as connection:
        said = read_all(connection)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.count(b"HTTP/1.1 408 ") == 1


def test_a_body_that_nobody_asked_for_must_end(client):
    request = b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
    with closing(connect(client.port, request)) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            if not is_open(connection):
                break
            connection.send(b"x")
            select.select([connection], [], [], 0.05)
        assert not is_open(connection)


def test_an_answer_that_takes_long_is_waited_for(client, image):
    # Longer than headers may take: a connection on which the server owes an answer is not idle.
    posted = client.explain("sleep-10.png", image, "first")
    client.finish(posted)
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)) as connection:
        for _ in range(3):
            connection.request("GET", "/api/models")
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)


def test_an_upload_may_take_longer_than_its_headers(client, image):
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)) as connection:
        connection.putrequest("POST", "/api/jobs")
        connection.putheader("Content-Length", "5000")
        connection.putheader("Content-Type", "multipart/form-data; boundary=edge")
        connection.endheaders()
        assert not select.select([connection.sock], [], [], 3 * SHORT.request_seconds)[0]


def test_an_answer_that_is_not_read_is_given_up(client, image):
    # More than what the sockets on the way hold.
    posted = client.explain(f"large-{30 << 20}.png", image, "first")
    assert client.finish(posted)["state"] == "done"
    path = f"/api/jobs/{posted.json['id']}/document/first"
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", client.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        time.sleep(2 * SHORT.answer_seconds)
        assert len(read_all(connection)) < 30 << 20
    # Who reads gets all of it.
    assert len(client.document(posted.json["id"], "first").body) > 30 << 20


def test_a_new_connection_takes_the_place_of_the_one_that_waits_longest(client):
    with ExitStack() as stack:
        waiting = [stack.enter_context(closing(connect(client.port, HALF))) for _ in range(8)]
        assert Client(client.port).get("/api/models").status == 200
        assert read_all(waiting[0]) == b""
        assert all(map(is_open, waiting[1:]))


def test_connections_that_are_being_answered_keep_their_place(client, queue):
    uploads = b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n" + (
        b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    with ExitStack() as stack:
        served = []
        for number in range(8):
            connection = stack.enter_context(
                closing(
                    socket.create_connection(("127.0.0.1", client.port), 20, (f"127.0.0.{2 + number}", 0))
                )
            )
            connection.sendall(uploads)
            served.append(connection)
        wait_until(lambda: len(queue._receiving) == 8)
        # The newest is the only one that waits: it is closed itself.
        assert read_all(stack.enter_context(closing(connect(client.port)))) == b""
        assert all(map(is_open, served))
    wait_until(lambda: not queue._receiving)


@pytest.mark.slow
def test_an_upload_is_no_traceback_when_the_server_ends(models, capfd):
    with serve(models, fake_explain.explain, connections=SHORT) as (port, queue):
        head = b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n"
        connection = connect(port, head + b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n")
        wait_until(lambda: queue._receiving)
    connection.close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("handles", "most"),
    [(192, 32), (256, 96), (1024, 512), (1 << 20, 512), (resource.RLIM_INFINITY, 512)],
)
def test_file_handles_limit_the_connections(monkeypatch, handles, most):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (handles, resource.RLIM_INFINITY))
    assert most_connections() == most
    assert ConnectionLimits().connections == most


def test_too_few_file_handles_are_said(monkeypatch):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (191, 4096))
    with pytest.raises(
        OSError, match=r"needs 192 file handles; this process may have 191: .* ulimit -n 1024"
    ):
        ConnectionLimits()


def test_how_long_clients_may_keep_the_server_waiting():
    limits = ConnectionLimits()
    assert (limits.request_seconds, limits.answer_seconds, limits.closing_seconds) == (10, 120, 2)


@pytest.mark.slow
def test_few_file_handles_and_many_half_requests(models):
    words = "import sys; from nonlocalnn.cli.explore import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", words, "--port", "0", "--model", str(models["first"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )
    try:
        port = int(process.stdout.readline().rpartition(":")[2].partition(" ")[0])
        with ExitStack() as stack:
            for _ in range(400):
                connection = stack.enter_context(closing(socket.socket()))
                connection.setblocking(False)
                connection.connect_ex(("127.0.0.1", port))
            for _ in range(5):
                assert Client(port).get("/api/models").status == 200
            assert len(os.listdir(f"/proc/{process.pid}/fd")) < 200
        process.terminate()
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert errors == ""
