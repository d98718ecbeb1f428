"""The command ``explore``: what it is told, and that nothing of it is left at its end."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from serving import Client, save_image, wait_until

from nonlocalnn.cli.explore import parse_models, run

PROGRAM = """
import signal, sys
# A shell's background jobs, of which the tests may be one, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from nonlocalnn.cli.explore import run
sys.exit(run(sys.argv[1:]))
"""


def start(*words, temporary):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--port", "0", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
        text=True,
        start_new_session=True,
    )


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "says"),
    [(signal.SIGINT, 0, "nonlocalnn explore: stopped\n"), (signal.SIGTERM, 143, "")],
)
def test_a_real_model_and_the_end(models, tmp_path, number, status, says):
    inputs, temporary = tmp_path / "inputs", tmp_path / "temporary"
    inputs.mkdir()
    temporary.mkdir()
    save_image(inputs / "cat.png")
    words = ("--model", f"a={models['first']}", "--model", models["second"], "--inputs", inputs)
    process = start(*words, temporary=temporary)
    try:
        line = process.stdout.readline()
        assert line.startswith("explorer at http://127.0.0.1:")
        client = Client(int(line.rpartition(":")[2].partition(" ")[0]))
        posted = client.post(("input", "cat.png"), ("models", "a"), ("models", "second"))
        assert client.finish(posted)["state"] == "done", client.answers[-1].body
        document = client.document(posted.json["id"], "a").json
        assert (document["kind"], document["title"], document["model"]) == ("image", "cat.png", "a")
        assert [block["name"] for block in document["blocks"]] == ["nl_1", "nl_2"]
        assert client.document(posted.json["id"], "second", "page").body.startswith(b"<!DOCTYPE html>")
        damaged = client.explain("cut.png", (inputs / "cat.png").read_bytes()[:45], "a")
        reason = client.finish(damaged)["reason"]
        assert reason.startswith("cannot read image cut.png: ")
        assert list(temporary.iterdir())
        # As a terminal does: to the whole group.
        os.killpg(process.pid, number)
        _, errors = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status
    # The log names the file by its place.
    assert errors.replace(str(temporary), "").endswith(says)
    assert "Traceback" not in errors
    assert errors.count("\n") == 1 + bool(says)
    wait_until(lambda: is_gone(process.pid))
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_one_clear_line(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        says = f"^cannot listen on 127.0.0.1, port {port}: Address already in use; choose another --port$"
        with pytest.raises(OSError, match=says):
            run(["--model", str(models["first"]), "--port", str(port)])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "absent.safetensors"], "there is no checkpoint absent.safetensors"),
        (["--model", "a=x", "--model", "a=y"], "two models are called 'a': give them names"),
        (["--model", "x/a.pt", "--model", "y/a.pt"], "two models are called 'a'"),
        (["--model", "=x"], "must be PATH or NAME=PATH"),
        (["--model", "a/b=x"], "with a name without slashes; got 'a/b=x'"),
        (["--model", "x", "--port", "70000"], "--port must be from 0 to 65535; got 70000"),
        (["--model", "x", "--host", "::zz"], "cannot listen on ::zz, port 0: "),
        (["--model", "x", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1, port 0"),
        (["--model", "x", "--inputs", "absent"], "--inputs must be a folder; there is no folder absent"),
        (["--model", "x", "--time-limit", "0"], "--time-limit must be greater than 0; got 0.0"),
        (["--model", "x", "--max-upload-mib", "nan"], "--max-upload-mib must be greater than 0"),
        (["--model", "x", "--memory-limit-mib", "-1"], "--memory-limit-mib must be"),
        (["--model", "x", "--max-queued", "0"], "--max-queued must be"),
        (["--model", "x", "--rate", "0"], "rate must be greater than zero, and finite; got 0.0"),
    ],
    ids=lambda value: " ".join(value)[8:40] if isinstance(value, list) else "",
)
def test_what_it_cannot_do_is_said(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((ValueError, OSError)) as caught:
        run(["--port", "0", *words])
    assert says in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) is before


def test_steps_a_second_are_for_models_of_sequences(models):
    words = ["--model", f"a={models['first']}", "--model", f"b={models['clips']}", "--port", "0"]
    with pytest.raises(ValueError, match="rate is of sequences, and these models take clips and images"):
        run([*words, "--rate", "250"])


def test_names_of_models(tmp_path):
    (tmp_path / "a run=1").mkdir()
    (tmp_path / "x=y.safetensors").touch()
    words = [str(tmp_path / "a run=1"), str(tmp_path / "x=y.safetensors"), "b=some=where"]
    assert parse_models(words) == {
        "a run=1": tmp_path / "a run=1",
        "x=y": tmp_path / "x=y.safetensors",
        "b": Path("some=where"),
    }


@pytest.mark.slow
def test_other_hosts_get_a_warning(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nonlocalnn.explorer.server.make_server", lambda app: Never())
    assert run(["--model", str(models["first"]), "--host", "0.0.0.0", "--port", "0"]) == 0
    captured = capsys.readouterr()
    assert "there are no user accounts: whoever reaches 0.0.0.0" in captured.err
    assert captured.out.startswith("explorer at http://0.0.0.0:")


class Never:
    """A server that has been stopped at once."""

    def run(self, *, sockets):
        assert [each.getsockname()[0] for each in sockets] == ["0.0.0.0"]
        raise KeyboardInterrupt


def test_without_its_libraries_it_says_what_to_install():
    words = "import sys; sys.modules['python_multipart'] = None; import nonlocalnn.explorer.server"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert "run pip install 'nonlocalnn[explorer]'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_library_is_imported_without_the_server():
    words = "import sys, json, nonlocalnn.explorer; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"starlette", "uvicorn", "python_multipart"}
