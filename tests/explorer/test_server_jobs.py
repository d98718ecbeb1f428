"""Jobs over HTTP: what is asked for, how far it is, and what came of it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

import load
import pytest
from serving import Client, release, wait_until


def test_the_whole_life_of_a_job(client, queue, image):
    posted = client.explain("d\u00fcck.png", image, "second", "first")
    assert posted.headers["Location"] == f"/api/jobs/{posted.json['id']}"
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
    expected = {"cat.png": "image", "deep.mp4": "video"}
    expected |= {"sub folder/d\u00fcck & dog.png": "image", "zip.mp4": None}
    listed = [{"name": name, "kind": kind} for name, kind in expected.items()]
    assert client.get("/api/inputs").json == {"inputs": listed}


def test_files_of_the_list_are_sent_for_thumbnails_and_no_others(client, inputs):
    for name, kind in (("cat.png", "image/png"), ("deep.mp4", "video/mp4")):
        sent = client.get(f"/api/inputs/{name}")
        assert (sent.status, sent.headers["Content-Type"]) == (200, kind)
        assert sent.body == (inputs / name).read_bytes()
    name = "sub folder/d\u00fcck & dog.png"
    assert client.get(f"/api/inputs/{quote(name)}").body == (inputs / name).read_bytes()
    # A browser asks for parts of a video.
    assert len(client.get("/api/inputs/deep.mp4", Range="bytes=0-9").body) == 10
    # No image or video by its content or its name, hidden, elsewhere, or not there.
    for name in (
        "zip.mp4",
        "notes.txt",
        ".hidden.png",
        "../cat.png",
        "%2e%2e/cat.png",
        "/etc/passwd",
        "x.png",
    ):
        assert client.get(f"/api/inputs/{name}").status == 404, name


@pytest.mark.parametrize(
    ("name", "model"),
    [("cat.png", "first"), ("deep.mp4", "clips"), ("sub folder/d\u00fcck & dog.png", "second")],
)
def test_inputs_of_the_server(client, inputs, name, model):
    posted = client.post(("input", name), ("models", model))
    assert client.finish(posted)["state"] == "done"
    document = client.document(posted.json["id"], model).json
    assert (document["title"], document["bytes"]) == (name, (inputs / name).stat().st_size)
    saved = client.document(posted.json["id"], model, what="page").headers["Content-Disposition"]
    assert unquote(saved) == f"attachment; filename*=UTF-8''{Path(name).name} {model}.html"
    assert (inputs / name).exists()


def test_an_input_that_goes_while_it_is_asked_for(client, queue, monkeypatch):
    def gone(path):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr("nonlocalnn.explorer.server.kinds_of", gone)
    answer = client.post(("input", "cat.png"), ("models", "first"))
    assert (answer.status, answer.error) == (404, "there is no such input")
    assert not queue._receiving


def test_the_queue_and_cancelling_in_it(client, image):
    running = client.explain("hold.png", image, "first")
    identity = running.json["id"]
    wait_until(lambda: client.get(f"/api/jobs/{identity}").json["step"] == "explaining with first (1 of 1)")
    waiting = [client.explain(f"{number}.png", image, "first").json for number in range(3)]
    assert [job["position"] for job in waiting] == [1, 2, 3]
    assert {job["state"] for job in waiting} == {"queued"}
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
    ],
)
def test_jobs_that_fail(client, image, title, status, says):
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


def test_a_model_that_the_job_does_not_have(client, image):
    posted = client.explain("cat.png", image, "first")
    client.finish(posted)
    assert client.document(posted.json["id"], "second").status == 404


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
