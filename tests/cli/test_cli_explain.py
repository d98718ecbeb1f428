"""``nonlocalnn explain``: the page of an input, the deletion test, and one line where it can't."""

import io
import json
import re
import sys

import pytest
import torch
from one_line import fails

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.cli import main
from videos import grey_frames, write_video

CLASSES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    facts = {"classes": CLASSES, "image_size": [28, 28], "channels": 1, "recipe": {"data": "digits"}}
    nl.save_checkpoint(randomize_(nl.create_model("nl_digits")), path, metadata=facts)
    return path


@pytest.fixture(scope="module")
def clips_model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "clips.safetensors"
    facts = {"classes": CLASSES, "sample_shape": [3, 8, 32, 32], "stride": 1}
    nl.save_checkpoint(nl.create_model("nl2_c2d_tiny"), path, metadata=facts)
    return path


def document_of(page):
    """Return the document that a page holds."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_a_sample_with_a_deletion_test(digits_model, tmp_path, capsys):
    page = tmp_path / "pages" / "seven.html"
    words = [
        "explain",
        "--data",
        "digits",
        "--sample",
        "7",
        "--model",
        digits_model,
        "-o",
        page,
        "--deletion",
    ]
    assert main([str(word) for word in words]) == 0
    document = document_of(page)
    assert (document["kind"], document["model"]) == ("image", "digits")
    assert [block["name"] for block in document["blocks"]] == ["nl_1", "nl_2"]
    assert [each["name"] for each in document["blocks"][0]["measures"]] == ["affinity", "effect"]
    best = document["prediction"][0]
    out = capsys.readouterr().out
    assert f"{best['class']!r}, probability {best['probability']:.3f}; page {page}, 0." in out
    assert f"change of the probability of {best['class']!r}" in out
    numbers = json.loads((tmp_path / "pages" / "seven.deletion.json").read_text())
    assert [(row["block"], row["fraction"]) for row in numbers][:2] == [("nl_1", 0.02), ("nl_1", 0.05)]
    first = out.splitlines()[3].split()
    assert first[:5] == ["nl_1", "1", "of", "49", f"{numbers[0]['most']:+.3f}"]


def test_an_image_file_and_the_settings(digits_model, tmp_path, photo, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["explain", str(photo), "--model", str(digits_model), "--blocks", "nl_2", "--no-effects"]
    assert main(words) == 0
    document = document_of(tmp_path / "photo.html")
    assert (document["title"], document["truth"]) == ("photo.png", None)
    (block,) = document["blocks"]
    assert [each["name"] for each in block["measures"]] == ["affinity"]
    assert not list(tmp_path.glob("*.json"))
    capsys.readouterr()


def test_a_video_and_all_of_its_frame(clips_model, tmp_path, capsys):
    path = tmp_path / "clip.mp4"
    write_video(path, grey_frames(12, height=36, width=64))
    page = tmp_path / "clip.html"
    assert main(["explain", str(path), "--model", str(clips_model), "-o", str(page)]) == 0
    document = document_of(page)
    assert (document["kind"], document["input"]["sides"]) == ("video", [8, 32, 32])
    assert document["input"]["frame_numbers"] == list(range(2, 10))
    assert main(["explain", str(path), "--model", str(clips_model), "-o", str(page), "--whole"]) == 0
    document = document_of(page)
    assert document["input"]["sides"] == [8, 32, 56]
    assert document["blocks"][0]["sides"] == [4, 8, 14]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "give either a file or --data"),
        (["photo.png", "--data", "digits"], 2, "give either a file or --data"),
        (["--data", "digits", "--whole"], 2, "--whole is about files"),
        (["none.png"], 1, "there is no file or folder none.png"),
        (["--data", "digits", "--sample", "353"], 1, "samples are from 0 to 352 for this split; got 353"),
        (["--data", "digits", "--blocks", "nl_3"], 1, "no non-local block 'nl_3' (did you mean"),
        (
            ["--data", "cue"],
            1,
            "the model was trained on images, samples of shape (1, 28, 28); 'cue' has clips",
        ),
        (["text.png"], 1, "cannot read image text.png: it is not an image"),
        (["."], 1, "one image is taken at a time"),
    ],
)
def test_one_line_where_it_cannot(words, status, says, digits_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    fails(capsys, "explain", *words, "--model", digits_model, "-o", "page.html", status=status, says=says)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["page.png", "pages/"])
def test_a_page_is_not_called_a_picture_or_a_folder(name, photo, digits_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    says = f"--output must end with .html or be a folder that is there; got {name.rstrip('/')}"
    fails(capsys, "explain", photo, "--model", digits_model, "-o", name, status=2, says=says)
    assert not list(tmp_path.glob("page*"))


def test_one_missing_input_does_not_cancel_the_others(photo, digits_model, tmp_path, capsys):
    other = tmp_path / "more" / "photo.png"
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    words = ["explain", str(photo), "missing.png", str(other), "--model", str(digits_model), "--no-effects"]
    assert main([*words, "-o", str(tmp_path / "pages")]) == 1
    out, err = capsys.readouterr()
    assert err == "nonlocalnn explain: there is no file or folder missing.png\n"
    assert len(out.splitlines()) == 2
    pages = sorted(page.name for page in (tmp_path / "pages").iterdir())
    assert pages == ["photo-2.html", "photo.html"]


def test_a_folder_that_is_there_takes_the_page(photo, digits_model, tmp_path):
    assert main(["explain", str(photo), "--model", str(digits_model), "-o", str(tmp_path)]) == 0
    assert (tmp_path / f"{photo.stem}.html").is_file()


@pytest.mark.parametrize("command", ["explain", "predict", "maps"])
def test_names_stay_as_people_write_them(photo, tmp_path, capsys, command):
    model = tmp_path / "model.safetensors"
    facts = {"classes": ["K\u00e4se", *CLASSES[1:]], "image_size": [28, 28], "channels": 1}
    nl.save_checkpoint(nl.create_model("nl_digits"), model, metadata=facts)
    other = tmp_path / "\u65e5\u672c \u2028.png"
    other.write_bytes(photo.read_bytes())
    extra = {
        "explain": ["-o", str(tmp_path / "page.html"), "--deletion"],
        "predict": ["--top", "10"],
        "maps": ["--output", str(tmp_path / "maps"), "--blocks", "nl_2"],
    }
    assert main([command, str(other), "--model", str(model), *extra[command]]) == 0
    out = capsys.readouterr().out
    text = {
        "explain": lambda: (tmp_path / "page.html").read_text(encoding="utf-8"),
        "predict": lambda: out,
        "maps": lambda: next((tmp_path / "maps").glob("*/summary.json")).read_text(encoding="utf-8"),
    }[command]()
    assert "\u65e5\u672c" in text
    if command != "maps":
        assert "K\u00e4se" in text
    # A line of JSON stays one line for all who split lines.
    if command == "predict":
        (line,) = out.splitlines()
        assert json.loads(line)["path"] == str(other)


def test_what_a_terminal_cannot_hold_is_escaped(photo, digits_model, tmp_path, monkeypatch):
    other = tmp_path / "k\u00e4se.png"
    other.write_bytes(photo.read_bytes())
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["predict", str(other), "--model", str(digits_model)]) == 0
    sys.stdout.flush()
    assert b"k\\u00e4se.png" in written.getvalue()
    assert json.loads(written.getvalue())["path"] == str(other)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_block_without_effects_has_its_weights(tmp_path, capsys, norm):
    torch.manual_seed(0)
    model = nl.create_model("nl_digits")
    nl.insert_nonlocal_(model, ["conv_2"], norm=norm, example_input=torch.rand(1, 1, 28, 28))
    facts = {"classes": CLASSES, "image_size": [28, 28], "channels": 1}
    nl.save_checkpoint(randomize_(model), tmp_path / "model.safetensors", metadata=facts)
    page = tmp_path / "page.html"
    words = ["--data", "digits", "--sample", "1", "--model", str(tmp_path / "model.safetensors")]
    assert main(["explain", *words, "-o", str(page)]) == 0
    blocks = {block["name"]: block for block in document_of(page)["blocks"]}
    measures = {name: [each["name"] for each in block["measures"]] for name, block in blocks.items()}
    assert measures.pop("conv_2.nl") == ["affinity"]
    assert set(map(tuple, measures.values())) == {("affinity", "effect")}
    reason = blocks["conv_2.nl"]["no_effects"]
    assert "Norm makes z no linear function of y" in reason
    assert blocks["nl_1"]["no_effects"] is None
    assert capsys.readouterr().err == f"nonlocalnn explain: conv_2.nl has no effects: {reason}\n"
