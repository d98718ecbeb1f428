"""Which answers a list gets: one for each of its lines, in their order; and what is not asked."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from bulk_runs import answers, settings
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.inference.bulk import AnswerPaths, predict_list
from videos import cut, grey_frames, write_video


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lines_are_those_of_predict_many(place, tmp_path, num_workers):
    """With the defaults of both, over more than a batch, and with as many failures in it."""
    names = [str(place / "images" / f"{number % 39:02}.png") for number in range(75)]
    classifier = nl.load_classifier(place / "model.safetensors")
    readable = [name for name in names if "images/18" not in name]
    (tmp_path / "list.txt").write_text("\n".join(readable))
    found = predict_list(
        tmp_path / "list.txt",
        tmp_path / "out",
        model=place / "model.safetensors",
        device="cpu",
        num_workers=num_workers,
    )
    lines = [json.dumps(answer) + "\n" for answer in classifier.predict_many(readable)]
    assert (tmp_path / "out/part-000000.jsonl").read_text() == "".join(lines)
    assert found.lines == 73
    assert found.failed == sum("error" in line for line in lines) == 4


def test_each_part_is_answered_by_itself(place, expected):
    classifier = nl.load_classifier(place / "model.safetensors")
    # No failure among these, and a batch of four and one of two.
    paths = [place / "images" / f"{number:02}.png" for number in range(6, 12)]
    rows = [json.loads(line) for line in expected["part-000001.jsonl"].splitlines()]
    found = classifier.predict_many(paths, batch_size=4)
    assert rows == [{**row, "path": f"images/{Path(row['path']).name}"} for row in found]


def test_every_line_has_its_answer_in_order(place, expected, tmp_path):
    predict_list(**settings(place, tmp_path, top=2))
    rows = answers(tmp_path)
    assert [row["path"] for row in rows] == (place / "files.txt").read_text().split()
    assert len({row["probability"] for row in rows if "error" not in row}) == 36
    failed = [number for number, row in enumerate(rows) if "error" in row]
    assert failed == [3, 17, 18, 39]
    assert rows[18] == {"path": "images/18.png", "error": f"no such image: {place}/images/18.png"}
    assert {len(row["top"]) for row in rows if "error" not in row} == {2}
    lines = (tmp_path / "failed.txt").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [[rows[n]["path"], rows[n]["error"]] for n in failed]
    parts = sorted(tmp_path.glob("part-*"))
    assert [len(part.read_text().splitlines()) for part in parts] == [6] * 6 + [4]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["list"]["lines"] == 40
    assert manifest["nonlocalnn"] == {"version": nl.__version__}


def test_names_of_any_bytes_blank_lines_and_repeats(place, tmp_path):
    odd = b"\xff\xfe \xe9.png"
    os.symlink(place / "images/00.png", os.fsencode(tmp_path) + b"/" + odd)
    os.symlink(place / "images/01.png", tmp_path / " two words .png")
    lines = b"\xef\xbb\xbf" + odd + b"\r\n\n \t\n two words .png\n" + odd + b"\n\xfe\0.png\n\n" + odd
    (tmp_path / "list.txt").write_bytes(lines)
    run = settings(place, tmp_path / "out", list_path=tmp_path / "list.txt", part_size=2)
    found = predict_list(**run)
    assert (found.lines, found.blank, found.repeated, found.failed) == (5, 3, 2, 1)
    rows = answers(tmp_path / "out")
    names = [os.fsencode(row["path"]) for row in rows]
    assert names == [odd, b" two words .png", odd, b"\xfe\0.png", odd]
    assert rows[0]["class"] == rows[2]["class"] == rows[4]["class"]
    assert "class" in rows[1]
    assert found.failures.read_bytes().startswith(b"\xfe\0.png\t")
    assert predict_list(**run) == found


def test_a_path_that_looks_like_an_error(place, tmp_path):
    name = 'a", "error": "b.png'
    os.symlink(place / "images/00.png", tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{name}\n{{'error': 1}}\n")
    run = settings(place, tmp_path / "out", list_path=tmp_path / "list.txt")
    assert predict_list(**run).failed == 1
    assert ["error" in row for row in answers(tmp_path / "out")] == [False, True]


def test_a_root_of_its_own(place, tmp_path):
    (tmp_path / "list.txt").write_text("00.png\n")
    run = settings(place, tmp_path / "out", list_path=tmp_path / "list.txt", root=place / "images")
    assert predict_list(**run).failed == 0


@pytest.mark.parametrize("encode", [str, os.fsencode, np.str_], ids=["str", "bytes", "numpy"])
def test_a_batch_of_paths(place, expected, encode):
    """The files of a part are answered as in the list, four a forward pass; other columns stay."""
    names = [f"images/{number:02}.png" for number in range(18, 24)]
    ask = AnswerPaths(place / "model.safetensors", root=place, batch_size=4, device="cpu")
    batch = {"path": [encode(name) for name in names], "label": [1, 2, 3, 4, 5, 6]}
    found = ask(batch)
    assert found == {**batch, "answer": expected["part-000003.jsonl"].decode().splitlines()}


@pytest.mark.parametrize("views", [None, 30])
def test_videos(tmp_path, views):
    torch.manual_seed(0)
    facts = {"classes": ["a", "b"], "sample_shape": [3, 8, 32, 32], "stride": 2, "multi_label": True}
    model = randomize_(nl.create_model("c2d_tiny", num_classes=2))
    with torch.no_grad():
        model.fc.weight *= 0.01
    nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata={**facts, "mean": 100.0})
    write_video(tmp_path / "a.mp4")
    write_video(tmp_path / "b.mp4", grey_frames(9))
    cut(tmp_path / "a.mp4", tmp_path / "cut.mp4")
    (tmp_path / "frames.png").mkdir()
    Image.new("RGB", (40, 36)).save(tmp_path / "frames.png/0.png")
    paths = [str(tmp_path / name) for name in ("a.mp4", "cut.mp4", "frames.png", "b.mp4")]
    image = f"{tmp_path}/frames.png/0.png"
    (tmp_path / "list.txt").write_text("\n".join([*paths, image]))
    predict_list(
        tmp_path / "list.txt", tmp_path / "out", model=tmp_path / "m.safetensors", device="cpu", views=views
    )
    rows = answers(tmp_path / "out")
    asked = nl.load_classifier(tmp_path / "m.safetensors").predict_many(paths, views=views)
    assert rows[:4] == json.loads(json.dumps(list(asked)))
    assert ["error" in row for row in rows] == [False, True, False, False, True]
    assert rows[4]["error"].startswith(f"{image} is an image, and the model takes videos")
    used = json.loads((tmp_path / "out/manifest.json").read_text())["settings"]
    assert (used["views"], used["batch_size"]) == (views or 1, 8)


def test_no_graph_is_kept_for_gradients(place, tmp_path):
    graphs = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda *_: graphs.append(torch.is_grad_enabled())
    )
    try:
        predict_list(**settings(place, tmp_path))
    finally:
        hook.remove()
    assert set(graphs) == {False}


def test_progress_counts_what_is_done(place, tmp_path):
    seen = []

    def watch(counts, total):
        assert total == 40
        for count in counts:
            seen.append(count)
            yield count

    predict_list(**settings(place, tmp_path), watch=watch)
    assert seen == list(range(41))
    (tmp_path / "part-000001.jsonl").unlink()
    seen.clear()
    predict_list(**settings(place, tmp_path), watch=watch)
    assert seen == [34, 35, 36, 37, 38, 39, 40]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"engine": "threads"}, ValueError, "engine must be one of 'loop', 'ray'; got 'threads'"),
        ({"workers": 2}, ValueError, "workers has no effect with engine 'loop': leave it out"),
        ({"engine": "ray", "num_workers": 1}, ValueError, "num_workers has no effect with engine 'ray'"),
        ({"engine": "ray", "workers": 0}, ValueError, "workers must be a whole number of at least 1; got 0"),
        (
            {"engine": "ray", "device": "cuda:1"},
            ValueError,
            "device must be one of 'auto', 'cpu', 'cuda'; got",
        ),
        ({"root": "/nowhere"}, FileNotFoundError, "relative to /nowhere, and there is no such folder"),
        ({"list_path": "images/none.txt"}, FileNotFoundError, "no such list of files"),
        ({"model": "none.safetensors"}, FileNotFoundError, "none.safetensors"),
        ({"model": "images/17.png"}, nl.CheckpointError, "17.png"),
        ({"top": 0}, ValueError, "top must be a whole number of at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1"),
        ({"part_size": 0}, ValueError, "part_size must be a whole number of at least 1"),
        ({"views": 1}, ValueError, "views is a setting of models of videos"),
        ({"precision": "fp8"}, ValueError, "precision must be one of"),
        ({"device": "tpu"}, ValueError, "device must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings_write_nothing(place, tmp_path, changes, error, says):
    for name in ("list_path", "model"):
        if name in changes:
            changes = {**changes, name: place / changes[name]}
    with pytest.raises(error, match=says):
        predict_list(**settings(place, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
