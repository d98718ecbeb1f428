"""``nonlocalnn maps``: what it refuses, in one line and before it writes."""

from pathlib import Path

import pytest
from one_line import fails

from nonlocalnn.cli import main, maps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.mark.slow
def test_a_whole_map_that_is_too_large_is_refused(tmp_path, checkpoint, photo, capsys, monkeypatch):
    words = ["maps", photo, "--model", checkpoint, "--output", tmp_path / "out"]
    monkeypatch.setattr(maps, "_MOST_NUMBERS", 196 * 49)
    assert main([str(word) for word in [*words, "--all-rows"]]) == 0
    monkeypatch.setattr(maps, "_MOST_NUMBERS", 196 * 49 - 1)
    words[-1] = tmp_path / "more"
    says = "photo.png, nl_1: a file holds at most 9,603 numbers and all rows are 9,604"
    fails(capsys, *words, "--all-rows", status=1, says=says)
    assert not (tmp_path / "more").exists()
    assert main([str(word) for word in words]) == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (["--queries", "13,0"], "photo.png, nl_2: query must be a place in (7, 7); got (13, 0)"),
        (["--queries", "3"], "photo.png, nl_1: query must be a place in (14, 14); got (3,)"),
        (["--pixels", "28,0"], "photo.png, nl_1: pixel must be a place in (28, 28); got (28, 0)"),
    ],
    ids=["one block lacks it", "of a sequence", "outside the input"],
)
def test_a_query_that_a_block_lacks_is_refused_before_anything_is_written(
    tmp_path, checkpoint, photo, capsys, setting, says
):
    folder = tmp_path / "out"
    words = ["maps", photo, "--model", checkpoint, "--output", folder, *setting]
    fails(capsys, *words, status=1, says=says)
    assert not folder.exists()


def test_what_cannot_be_read_is_said_and_the_others_go_on(tmp_path, checkpoint, photo, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "b.png").write_bytes(photo.read_bytes()[:60])
    words = ["maps", folder, "--model", checkpoint, "--output", tmp_path / "out", "--blocks", "nl_2"]
    fails(capsys, *words, status=1, says=f"cannot read image {folder / 'b.png'}")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]
    words = ["maps", "--data", "digits", "--samples", "9999", "1", "--model", checkpoint]
    fails(capsys, *words, "--output", tmp_path / "more", status=1, says="from 0 to 352")
    assert len(list((tmp_path / "more").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{corrupt}", "--model", "{model}"], "cannot read image {corrupt}"),
        (["absent.png", "--model", "{model}"], "there is no file or folder absent.png"),
        (["{video}", "--model", "{model}"], "cannot read image {video}"),
        (["{photo}", "--model", "{clips}"], "{photo} is an image, and the model takes videos"),
        (["{photo}", "{photo}", "--model", "{model}", "--blocks", "nl_9"], "no non-local block 'nl_9'"),
        (["{photo}", "--model", "{model}", "--whole"], "does not take photo.png, of shape (1, 37, 28)"),
        (["{photo}", "--model", "{model}", "--format", "gif"], "--format gif is for videos"),
        (["--data", "digits", "--model", "{model}", "--samples", "-1"], "from 0 to 352"),
        (["--data", "cue", "--model", "{model}"], "samples of shape (1, 28, 28); 'cue' has clips"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(
    words, says, tmp_path, checkpoint, of_clips, photo, video, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 9)
    places = {"model": checkpoint, "clips": of_clips, "photo": photo, "video": video, "corrupt": corrupt}
    filled = [word.format(**places) for word in words]
    fails(capsys, "maps", *filled, status=1, says=says.format(**places))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give either files or --data"),
        (["x.png", "--data", "digits"], "give either files or --data"),
        (["--data", "digits", "--whole"], "--whole is about files"),
        (["x.png", "--queries", "1,1", "--pixels", "2,2"], "not allowed with argument --queries"),
        (["x.png", "--queries", "1;1"], "N, ROW,COLUMN or TIME,ROW,COLUMN, as in 3,4; got '1;1'"),
        (["x.png", "--pixels", "1,2,3,4"], "got '1,2,3,4'"),
        (["x.png", "--format", "jpg"], "invalid choice: 'jpg'"),
    ],
    ids=["nothing", "both", "whole sample", "both kinds of places", "no place", "four axes", "format"],
)  # fmt: skip
def test_wrong_calls(words, says, capsys):
    fails(capsys, "maps", *words, "--model", "absent", status=2, says=says)
