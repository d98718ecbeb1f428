"""What is there already: it is not done again, never mixed with other results, and checked."""

import os

import pytest
from bulk_runs import contents, fill, settings

import nonlocalnn as nl
from nonlocalnn.inference.bulk import predict_list


def test_finished_parts_are_not_done_again(place, expected, tmp_path):
    predict_list(**settings(place, tmp_path))
    for path in tmp_path.glob("part-*"):
        os.utime(path, (0, 0))
    (tmp_path / "part-000003.jsonl").unlink()
    predict_list(**settings(place, tmp_path))
    written = [path.name for path in tmp_path.glob("part-*") if path.stat().st_mtime_ns]
    assert written == ["part-000003.jsonl"]
    assert contents(tmp_path) == expected


def test_a_part_taken_away_may_become_another(place, tmp_path):
    """A file that could not be read is there by now."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        os.symlink(place / f"images/{number:02}.png", images / f"{number:02}.png")
    run = settings(place, tmp_path / "out", root=tmp_path)
    assert predict_list(**run).failed == 4
    (images / "17.png").unlink()
    os.symlink(place / "images/00.png", images / "17.png")
    assert predict_list(**run).failed == 4
    (tmp_path / "out/part-000002.jsonl").unlink()
    assert predict_list(**run).failed == 3
    assert predict_list(**run).failures.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"top": 2}, "settings top was 3 and is 2"),
        ({"batch_size": 5}, "settings batch_size was 4 and is 5"),
        ({"part_size": 7}, "settings part_size was 6 and is 7"),
        ({"precision": "bf16"}, "settings precision was 'fp32' and is 'bf16'"),
        ({"device": "meta"}, "settings device was 'cpu' and is 'meta'"),
        ({"root": "/"}, "list root was '.*' and is '/'"),
        ({"model": "other.safetensors"}, "model sha256 was"),
        ({"list_path": "changed.txt"}, "list sha256 was"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_nothing_is_mixed(place, expected, tmp_path, changes, says):
    output = tmp_path / "out"
    output.mkdir()
    fill(output, expected)
    # A list of the same length, with the same files in another order.
    lines = (place / "files.txt").read_text().splitlines(keepends=True)
    (tmp_path / "changed.txt").write_text("".join(reversed(lines)))
    if "model" in changes:
        changes = {"model": place / changes["model"]}
    if "list_path" in changes:
        changes = {"list_path": tmp_path / changes["list_path"], "root": place}
    with pytest.raises(ValueError, match=f"results of another run: {says}.*another folder"):
        predict_list(**settings(place, output, **changes))
    assert contents(output) == expected


def test_another_version_is_not_mixed(place, expected, tmp_path, monkeypatch):
    fill(tmp_path, expected)
    monkeypatch.setattr(nl, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"nonlocalnn version was '.*' and is '0\.0\.1'"):
        predict_list(**settings(place, tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "part-000004.jsonl",
            lambda old: old + b"\n",
            "must have 6 lines, one for each .* it has 7: delete it",
        ),
        ("part-000006.jsonl", lambda old: b"", "must have 4 lines, one for each .* it has 0: delete it"),
        ("manifest.json", lambda old: old[:50], r"manifest\.json must be a manifest, and is none"),
        ("manifest.json", None, r"holds part-.* and no manifest\.json .*: take an empty folder"),
    ],
    ids=["more", "empty", "manifest", "no manifest"],
)
def test_what_somebody_changed_is_found(place, expected, tmp_path, name, change, says):
    fill(tmp_path, expected)
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(change(expected[name]))
    with pytest.raises(ValueError, match=says):
        predict_list(**settings(place, tmp_path))
