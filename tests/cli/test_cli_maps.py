"""``nonlocalnn maps``: what it writes of images, videos and sequences."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nonlocalnn as nl
from nonlocalnn.affinity import summarise
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.cli import main, maps
from nonlocalnn.data import load_dataset
from nonlocalnn.explorer import choose_queries
from nonlocalnn.inference.classifier import load_classifier
from tolerances import assert_near, near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
CLASSES = [str(digit) for digit in range(10)]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def captured(checkpoint, sample):
    model = nl.load_checkpoint(checkpoint).eval()
    with nl.capture_affinity(model) as found, torch.no_grad():
        model(sample[None])
    return found


def test_each_block_has_pictures_rows_and_a_summary(tmp_path, checkpoint, capsys):
    words = ["maps", "--data", "digits", "--samples", "0", "7", "--model", str(checkpoint)]
    assert main([*words, "--output", str(tmp_path)]) == 0
    image, target = load_dataset("digits", "test")[7]
    found = captured(checkpoint, image)
    folder = tmp_path / f"test-7-class-{target}"
    assert files(folder) == sorted(
        [f"nl_{number}{end}" for number in (1, 2) for end in ("-attended.png", ".npy", ".png")]
        + ["summary.json"]
    )
    facts = json.loads((folder / "summary.json").read_text())
    assert (facts["input"], facts["sides"], facts["truth"]) == (folder.name, [28, 28], str(target))
    assert (facts["frame_numbers"], facts["seconds"]) == (None, None)
    printed = capsys.readouterr().out
    answer = facts["prediction"][0]
    assert f"{folder.name}: predicted {answer['class']!r} ({answer['probability']:.2g})" in printed
    assert printed.endswith(f"2 inputs, results in {tmp_path}\n")
    for name in ("nl_1", "nl_2"):
        shown, about = found[name], facts["blocks"][name]
        queries = choose_queries(image, shown.grid.sides)
        assert_near(np.load(folder / f"{name}.npy"), shown.rows(queries)[0])
        assert about["instantiation"] == "dot_product"
        assert "extent" not in about
        assert about["sides"] == list(shown.grid.sides)
        assert about["key_sides"] == list(shown.key_grid.sides)
        assert [tuple(query["place"]) for query in about["queries"]] == queries
        weights, keys = shown.top(queries, 5)
        for number, query in enumerate(about["queries"]):
            assert query["box"] == [list(side) for side in shown.grid.box(*queries[number])]
            assert [key["weight"] for key in query["top"]] == near(weights[0, number].tolist())
            assert [key["place"] for key in query["top"]] == keys[0, number].tolist()
            first = query["top"][0]
            assert first["box"] == [list(side) for side in shown.key_grid.box(*first["place"])]
        expected = summarise(shown).as_numbers()
        assert about["summary"].keys() == expected.keys()
        assert {key for key, value in about["summary"].items() if value is None} == {
            "distance_frames", "uniform_distance_frames"
        }  # fmt: skip
        for key in ("entropy", "distance_pixels", "uniform_distance_pixels"):
            assert about["summary"][key] == near(expected[key])
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  {name} ")][1:]
        assert line.split() == [
            name,
            "dot_product",
            f"{expected['entropy']:.2f}",
            f"{expected['distance_pixels']:.2f}",
            f"({expected['uniform_distance_pixels']:.2f})",
            *(["attends", "nearly", "evenly"] if expected["entropy"] >= 0.97 else ()),
        ]
        assert about["attends_evenly"] == (expected["entropy"] >= 0.97)
        # Frames are of videos.
        assert "extent" not in about
    assert "frames" not in printed


def test_whole_maps_are_written_when_they_are_asked_for(tmp_path, checkpoint, photo):
    words = ["maps", str(photo), "--model", str(checkpoint), "--output", str(tmp_path / "out")]
    assert main([*words, "--all-rows"]) == 0
    found = captured(checkpoint, load_classifier(checkpoint).show(photo).sample)
    for name, shape in (("nl_1", (196, 49)), ("nl_2", (49, 9))):
        rows = np.load(tmp_path / "out/photo" / f"{name}.npy")
        assert rows.shape == shape
        assert_near(rows, found[name].affinity[0])


def test_files_of_one_name_get_folders_of_their_own(tmp_path, checkpoint, photo):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / photo.name
    Image.new("L", (9, 9), 255).save(other)
    folder = tmp_path / "maps"
    words = ["maps", str(photo), str(other), "--model", str(checkpoint), "--output", str(folder)]
    assert main([*words, "--blocks", "nl_1", "--queries", "3,4", "13,-1"]) == 0
    names = ["nl_1-attended.png", "nl_1.npy", "nl_1.png", "summary.json"]
    assert files(folder) == [f"{name}/{file}" for name in ("photo-2", "photo") for file in names]
    first, second = (np.load(folder / name / "nl_1.npy") for name in ("photo", "photo-2"))
    assert first.shape == second.shape == (2, 7, 7)
    assert not np.allclose(first, second)
    queries = json.loads((folder / "photo" / "summary.json").read_text())["blocks"]["nl_1"]["queries"]
    assert [query["place"] for query in queries] == [[3, 4], [13, 13]]


def test_a_video_and_points_of_it(tmp_path, of_clips, video, capsys):
    folder = tmp_path / "out"
    words = ["maps", str(video), "--model", str(of_clips), "--output", str(folder)]
    assert main([*words, "--pixels", "7,31,0", "0,0,16", "--format", "svg"]) == 0
    names = ("layer2.0.nl", "layer3.0.nl")
    assert files(folder / "film") == sorted(
        [f"{name}{end}" for name in names for end in ("-attended.svg", ".npy", ".svg")] + ["summary.json"]
    )
    shown = load_classifier(of_clips).show(video)
    facts = json.loads((folder / "film/summary.json").read_text())
    assert facts["frame_numbers"] == list(shown.frame_numbers)
    assert facts["seconds"] == list(shown.seconds)
    assert facts["truth"] is None
    assert {block["extent"] for block in facts["blocks"].values()} == {"spacetime"}
    found = captured(of_clips, shown.sample)
    for name, places in zip(names, ([[3, 7, 0], [0, 0, 4]], [[3, 3, 0], [0, 0, 2]]), strict=True):
        assert [query["place"] for query in facts["blocks"][name]["queries"]] == places
        rows = np.load(folder / "film" / f"{name}.npy")
        assert_near(rows, found[name].rows(places)[0])
    expected = summarise(found["layer3.0.nl"]).as_numbers()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  layer3.0.nl"))
    # Weights are fresh, so that it attends evenly.
    distance = f"{expected['distance_frames']:.2f} ({expected['uniform_distance_frames']:.2f})"
    assert line.endswith(f"{distance}  attends nearly evenly")


@pytest.mark.parametrize("multi_label", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_prediction_is_what_predict_says(tmp_path, of_clips, video, multi_label):
    path = tmp_path / "model.safetensors"
    facts = {name: read_metadata(of_clips)[name] for name in ("classes", "sample_shape", "stride")}
    model = nl.load_checkpoint(of_clips)
    nl.save_checkpoint(model, path, metadata={**facts, "multi_label": multi_label})
    words = ["maps", str(video), "--model", str(path), "--output", str(tmp_path / "out")]
    assert main([*words, "--blocks", "layer3.0.nl", "--queries", "0,0,0"]) == 0
    facts = json.loads((tmp_path / "out/film/summary.json").read_text())
    expected = load_classifier(path).predict(video)["top"]
    assert [row["class"] for row in facts["prediction"]] == [row["class"] for row in expected]
    for row, other in zip(facts["prediction"], expected, strict=True):
        assert row["probability"] == near(other["probability"])


@pytest.mark.parametrize("suffix", ["gif", pytest.param("mp4", marks=pytest.mark.slow)])
def test_animations_are_a_file_a_query(tmp_path, of_clips, suffix):
    words = ["maps", "--data", "cue", "--model", str(of_clips), "--output", str(tmp_path)]
    words += ["--blocks", "layer3.0.nl", "--queries", "3,1,1", "0,0,0", "--format", suffix]
    assert main(words) == 0
    (folder,) = tmp_path.iterdir()
    assert files(folder) == [
        "layer3.0.nl-attended.png",
        f"layer3.0.nl-query-1.{suffix}",
        f"layer3.0.nl-query-2.{suffix}",
        "layer3.0.nl.npy",
        "summary.json",
    ]
    first, second = (folder / f"layer3.0.nl-query-{number}.{suffix}" for number in (1, 2))
    assert first.read_bytes() != second.read_bytes()


@pytest.mark.slow
def test_whole_videos_are_wider(tmp_path, of_clips, video):
    words = ["maps", str(video), "--model", str(of_clips), "--blocks", "layer3.0.nl"]
    assert main([*words, "--whole", "--output", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out/film/summary.json").read_text())
    assert facts["sides"] == [8, 32, 64]
    assert facts["blocks"]["layer3.0.nl"]["sides"] == [4, 4, 8]


def test_sequences_come_from_data_sets(tmp_path, monkeypatch):
    model = nn.Sequential(
        nn.Conv1d(3, 8, 9, 4, 4), nl.NonLocal1d(8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 10)
    ).eval()
    loaded = nl.inference.Classifier(model, classes=tuple(CLASSES), sample_shape=(3, 384), recipe={})
    monkeypatch.setattr(maps, "load_model", lambda *_, **__: loaded)
    words = ["maps", "--data", "cue-sequence", "--model", "any", "--output", str(tmp_path)]
    assert main([*words, "--pixels", "200"]) == 0
    (folder,) = tmp_path.iterdir()
    assert np.load(folder / "1.npy").shape == (1, 48)
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["blocks"]["1"]["queries"][0]["place"] == [50]
    assert (folder / "1.png").stat().st_size > 1000
    sample = loaded.load_dataset("cue-sequence", "test", data_dir=None)[0][0]
    assert facts["sides"] == list(sample.shape[1:])


@pytest.mark.slow
def test_groups_of_an_extent_are_kept_apart_in_whole_maps(tmp_path, monkeypatch):
    model = nn.Sequential(
        nn.Conv3d(3, 4, (1, 8, 8), (1, 8, 8)), nl.NonLocal3d(4, extent="space"), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(4, 10),
    ).eval()  # fmt: skip
    loaded = nl.inference.Classifier(model, classes=tuple(CLASSES), sample_shape=(3, 8, 32, 32), recipe={})
    monkeypatch.setattr(maps, "load_model", lambda *_, **__: loaded)
    words = ["maps", "--data", "cue", "--model", "any", "--output", str(tmp_path), "--all-rows"]
    monkeypatch.setattr(maps, "_MOST_NUMBERS", 8 * 16 * 4)
    assert main(words) == 0
    (folder,) = tmp_path.iterdir()
    assert np.load(folder / "1.npy").shape == (8, 16, 4)
