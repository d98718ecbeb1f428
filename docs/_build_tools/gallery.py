"""Run the notebooks of examples/notebooks and write a page of each, with its outputs, into docs/gallery.

``python docs/_build_tools/gallery.py [NAME ...]`` needs the extra "dev". The pages are kept in the
repository, so that building the site runs nothing.
"""

import base64
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS, PAGES = ROOT / "examples" / "notebooks", ROOT / "docs" / "gallery"


def run(path):
    """Return the notebook with what its cells gave."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    # A notebook reads what lies beside it.
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    # A busy machine may be slow to hand over the last output.
    client = NotebookClient(
        notebook, timeout=600, iopub_timeout=60, kernel_name="python3", resources=resources
    )
    return client.execute()


def page_of(notebook, name, folder):
    """Return a notebook as Markdown; its pictures go into the folder, as NAME-1.png and so on."""
    parts, pictures = [], 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        said, printed = [], ""
        for output in [*cell["outputs"], {"end": True}]:
            data = output.get("data", {})
            text = "".join(output.get("text", ""))
            if text:
                # What a cell prints comes in pieces, which may end inside a line.
                printed += text
                continue
            if printed.strip():
                said.append(f"```text\n{plain(printed)}\n```")
            printed = ""
            if "image/png" in data:
                pictures += 1
                file = f"{name}-{pictures}.png"
                (folder / file).write_bytes(base64.b64decode("".join(data["image/png"])))
                said.append(f"![What this cell draws]({file})")
            elif "text/html" in data:
                said.append("*A page to point at, as on [the home page](../index.md#look-at-one).*")
            elif "text/plain" in data:
                said.append(f"```text\n{plain(''.join(data['text/plain']))}\n```")
        parts += said
    where = f"*The notebook is `examples/notebooks/{name}.ipynb` of a clone.*"
    return "\n\n".join([parts[0], where, *parts[1:]]) + "\n"


def plain(text):
    """Return what a terminal shows in the end: no colours, no states of a line that was written over.

    The speed goes too: it is that of one machine.
    """
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|  [\d,.]+ samples/s", "", text)
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in text.strip("\n").split("\n"))


def main(names):
    """Run the notebooks of these names, or all."""
    PAGES.mkdir(exist_ok=True)
    for name in names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        for picture in PAGES.glob(f"{name}-*.png"):
            picture.unlink()
        (PAGES / f"{name}.md").write_text(
            page_of(run(NOTEBOOKS / f"{name}.ipynb"), name, PAGES), encoding="utf-8"
        )
        print(PAGES / f"{name}.md")


if __name__ == "__main__":
    main(sys.argv[1:])
