"""``nonlocalnn export``: a checkpoint becomes a file that says what it is."""

import json

import pytest
import torch
from one_line import fails

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.cli import main
from nonlocalnn.export import METADATA_KEY
from tolerances import NETWORK, assert_near


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "digits.safetensors"
    facts = {"classes": list("0123456789"), "sample_shape": [1, 8, 8]}
    model = randomize_(nl.create_model("nl_digits", image_size=8))
    nl.save_checkpoint(model, path, metadata=facts)
    return path


@pytest.mark.slow
def test_the_file_is_named_after_the_model(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(small), "--format", "pt2"]) == 0
    printed = capsys.readouterr().out
    assert "digits.pt2: pt2" in printed
    assert "embedded_gaussian: scaled_dot_product_attention" in printed
    assert "any size: batch\n" in printed
    extra = {f"{METADATA_KEY}.json": ""}
    program = torch.export.load(tmp_path / "digits.pt2", extra_files=extra)
    assert json.loads(extra[f"{METADATA_KEY}.json"])["classes"] == list("0123456789")
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        expected = nl.load_checkpoint(small).eval()(x)
        assert_near(program.module()(x), expected, sums=NETWORK)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--opset", "11"], "opset must be a whole number from 18 to"),
        (["--format", "pt2", "--opset", "23"], "opset is a setting of the format 'onnx'"),
        (["--output", "model.pt2", "--opset", "23"], "opset is a setting of the format 'onnx'"),
        (["--output", "model.pt2", "--format", "onnx"], "must end in .onnx"),
        (["--output", "model.pb"], "must end in .onnx"),
    ],
)
def test_failures_are_one_line(small, capsys, words, says):
    fails(capsys, "export", small, *words, status=1, says=says)


def test_an_unknown_format_is_a_wrong_call(small, capsys):
    words = ("export", small, "--format", "torchscript")
    fails(capsys, *words, status=2, says="invalid choice: 'torchscript'")
