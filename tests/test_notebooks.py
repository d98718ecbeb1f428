"""The notebooks run as they are, without a network, and the site shows them as they are."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    content = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


@each
@pytest.mark.slow
# What Jupyter's own packages warn of is not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(sys.platform != "linux", reason="one of them asks Linux for the peak of memory")
def test_runs(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[dev]'")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    # A notebook reads what lies beside it, and writes into a folder of its own.
    there, resources = sorted(path.parent.iterdir()), {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources)
    client.execute()
    assert sorted(path.parent.iterdir()) == there


@each
def test_is_kept_without_outputs(path):
    assert not [cell for cell in cells(path, "code") if cell["outputs"] or cell["execution_count"]]


@each
def test_the_page_shows_the_code_of_the_notebook(path):
    page = (ROOT / "docs/gallery" / f"{path.stem}.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)\n```$", page, re.M | re.S)
    assert shown == ["".join(cell["source"]) for cell in cells(path, "code")]
    for cell in cells(path, "markdown"):
        assert "".join(cell["source"]).strip() in page
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page):
        assert (ROOT / "docs/gallery" / picture).exists()


def test_the_gallery_lists_all():
    listed = re.findall(r"\(gallery/(\w+)\.md\)", (ROOT / "docs/gallery.md").read_text(encoding="utf-8"))
    assert set(listed) == {path.stem for path in NOTEBOOKS}


def test_a_page_has_what_the_cells_gave(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/_build_tools"))
    import gallery

    pieces = [
        {"text": "$ nonlocalnn"},
        {"text": " train\n 10 %\r100 %\nepoch 1/3  loss 0.29  9 samples/s\n"},
        {"data": {"image/png": "iVBORw0KGgo=", "text/plain": "<a picture>"}},
        {"text": "\x1b[32mdone\x1b[0m\n"},
        {"data": {"text/plain": "{'seed': 0}"}},
    ]
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "words"]},
            {"cell_type": "code", "source": ["run()"], "outputs": pieces},
        ]
    }
    page = gallery.page_of(notebook, "toy", tmp_path)
    assert page.startswith("# Title\nwords\n\n*The notebook is")
    assert page.split("```python\nrun()\n```\n\n")[1] == (
        "```text\n$ nonlocalnn train\n100 %\nepoch 1/3  loss 0.29\n```\n\n"
        "![What this cell draws](toy-1.png)\n\n```text\ndone\n```\n\n```text\n{'seed': 0}\n```\n"
    )
    assert (tmp_path / "toy-1.png").read_bytes().startswith(b"\x89PNG")
