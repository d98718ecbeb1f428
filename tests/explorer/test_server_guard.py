"""The server's pages and errors, and what other sites must not do."""

import logging
import re

import pytest
from serving import release, wait_until

from nonlocalnn.explorer.guard import Guard, allowed_hosts
from nonlocalnn.explorer.page import SCRIPTS


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


def test_an_unexpected_error_is_answered_in_general_words(client, queue, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("no such file: /etc/secret")

    monkeypatch.setattr(queue, "find", broken)
    # Some versions of uvicorn hand their records to no logger above.
    logger = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])
    answer = client.get("/api/jobs/x")
    assert (answer.status, answer.error) == (500, "an unexpected error, which the server's log tells of")
    wait_until(lambda: "/etc/secret" in caplog.text)


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
