"""What `pip install nonlocalnn` brings alone is enough for what the README says; all else names its extra."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bare_install import EXTRAS

NEEDS = {
    "export onnx": "export",
    "train": "train",
    "evaluate": "data",
    "predict": "data",
    "predict by ray": "ray",
    "maps": "data",
    "explain": "data",
    "doctor": "data",
    "explore": "explorer",
    "data check": "video",
}
# A process that imports everything by turns.
pytestmark = pytest.mark.slow

WORKS = ("models", "cost", "convert", "export pt2")


@pytest.fixture(scope="module")
def found():
    program = Path(__file__).parent / "bare_install.py"
    # Warnings are errors there too, but for those that torch.export raises inside of torch.
    words = [sys.executable, "-W", "error::UserWarning", str(program)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_checkpoints_are_saved_and_loaded(found):
    assert found["same"]


@pytest.mark.parametrize("command", WORKS)
def test_works(found, command):
    answer = found["answers"][command]
    assert answer["status"] == 0, answer["err"]
    assert "not installed" not in answer["err"]


@pytest.mark.parametrize("command", NEEDS)
def test_names_the_extra_in_one_line(found, command):
    answer = found["answers"][command]
    assert (answer["status"], answer["out"], answer["err"].count("\n")) == (1, "", 1)
    extra = re.escape(f"pip install 'nonlocalnn[{NEEDS[command]}]'")
    assert re.search(f"needs the library .*, which is not installed: run {extra}$", answer["err"].rstrip())


def test_help_is_shown_or_names_the_extra(found):
    for name, answer in found["helps"].items():
        assert f"usage: nonlocalnn {name}" in answer["out"] or "pip install 'nonlocalnn[" in answer["err"]


def test_every_library_of_an_extra_is_hidden():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_developers = ("all", "dev", "docs", "wrappers", "mutants")
    listed = [each for name in extras if name not in of_developers for each in extras[name]]
    names = {re.split(r"[^\w-]", each)[0] for each in listed} - {"nonlocalnn"}
    modules = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml", "mmcv-lite": "mmcv"}
    assert {modules.get(name, name.replace("-", "_")) for name in names} <= EXTRAS
