"""What tests of lists of files ask for, and how they read what was written."""

import json


def settings(place, output, **changes):
    """Arguments of ``predict_list`` for the files of a place, in parts of six and batches of four."""
    return {
        "list_path": place / "files.txt",
        "output_folder": output,
        "model": place / "model.safetensors",
        "device": "cpu",
        "part_size": 6,
        "batch_size": 4,
        **changes,
    }


def contents(folder):
    """Every file's bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fill(folder, files):
    """Write what :func:`contents` gave."""
    for name, value in files.items():
        (folder / name).write_bytes(value)


def answers(folder):
    """The answers of all parts, one after another."""
    parts = sorted(folder.glob("part-*"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
