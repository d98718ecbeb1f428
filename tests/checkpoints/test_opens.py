"""A checkpoint is opened once, by whatever starts from it: all of it is then of one file."""

import sys
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import native
from nonlocalnn.cli import main
from nonlocalnn.explorer.worker import _load

FACTS = {"classes": [str(digit) for digit in range(10)], "image_size": [28, 28], "channels": 1}
watched = []


def _watch(event, words):
    if event == "open" and watched and str(words[0]) == watched[0]:
        watched.append("open")


# It stays for good, and does nothing where no test watches.
sys.addaudithook(_watch)


@contextmanager
def opens_of(path, monkeypatch):
    """Who opens a file, in turn: Python, or safetensors, which opens files by itself."""
    original, found = native.safe_open, []

    def safe_open(opened, **settings):
        watched.append("safe_open")
        return original(opened, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(native, "safe_open", safe_open)
        watched[:] = [str(path)]
        try:
            yield found
        finally:
            found += watched[1:]
            watched.clear()


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "digits.safetensors"
    nl.save_checkpoint(randomize_(nl.create_model("nl_digits")), path, metadata=FACTS)
    Image.new("L", (28, 28), 90).save(tmp_path / "photo.png")
    return path


@pytest.mark.parametrize("command", ["explain", "predict", "maps"])
def test_a_command_opens_its_checkpoint_once(digits, tmp_path, monkeypatch, command):
    where = {"explain": "-o=page.html", "predict": "--output=lines.jsonl", "maps": "--output=maps"}
    monkeypatch.chdir(tmp_path)
    with opens_of(digits, monkeypatch) as opens:
        assert main([command, "photo.png", "--model", str(digits), where[command]]) == 0
    assert opens == ["safe_open"]


def test_python_and_the_explorer_open_a_checkpoint_once(digits, monkeypatch):
    for load in (nl.load_classifier, _load):
        with opens_of(digits, monkeypatch) as opens:
            load(digits)
        assert opens == ["safe_open"]


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize("has_objects", [False, True], ids=["plain", "objects"])
def test_a_file_of_torch_save_is_opened_once(tmp_path, monkeypatch, is_zip, has_objects):
    path, model = tmp_path / "digits.pth", randomize_(nl.create_model("nl_digits"))
    content = model.state_dict()
    if has_objects:
        content = {"model": content, "scheduler": torch.optim.lr_scheduler.StepLR}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with opens_of(path, monkeypatch) as opens:
        loaded = nl.load_checkpoint(path, nl.create_model("nl_digits"))
    # safetensors is asked first, and refuses it.
    assert opens == ["safe_open", "open"]
    assert torch.equal(loaded.conv_1[0].weight, model.conv_1[0].weight)


def test_a_damaged_file_of_safetensors_is_no_other_file(digits):
    digits.write_bytes(digits.read_bytes()[:-100])
    with pytest.raises(nl.CheckpointError, match=r"digits\.safetensors is damaged: "):
        nl.load_checkpoint(digits)
