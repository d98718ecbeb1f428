import json
import sys

import pytest
import torch

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn import hub
from nonlocalnn.checkpoints import read_metadata
from tolerances import assert_same

FACTS = {
    "classes": ["run", "walk"],
    "sample_shape": [3, 8, 32, 32],
    "stride": 4,
    "recipe": {
        "data": "videos",
        "data_dir": "/somewhere/private",
        "output": "/home/me/runs",
        "start_from": "/home/me/first.safetensors",
        "seed": 3,
    },
}
METRICS = {"best_epoch": 7, "steps": 90, "seed": 3, "test": {"accuracy": 0.875, "num_samples": 64}}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    model = randomize_(nl.create_model("nl2_c2d_tiny", num_classes=2, instantiation="concatenation"))
    nl.save_checkpoint(model, folder / "best.safetensors", metadata=FACTS)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_a_folder_round_trip_gives_the_same_classifier(run, tmp_path):
    first = nl.load_classifier(run)
    second = hub.from_pretrained(hub.save_pretrained(run, tmp_path / "hub"))
    assert (second.classes, second.sample_shape, second.stride) == (("run", "walk"), (3, 8, 32, 32), 4)
    clip = torch.randn(2, 3, 8, 32, 32)
    assert_same(second.model(clip), first.model(clip))


def test_places_of_the_machine_stay_at_home(run, tmp_path):
    folder = hub.save_pretrained(run, tmp_path / "hub")
    assert read_metadata(folder / "model.safetensors")["recipe"] == {"data": "videos", "seed": 3}
    for path in folder.iterdir():
        assert b"/somewhere" not in path.read_bytes()
        assert b"/home/me" not in path.read_bytes()


def test_the_card_tells_what_it_is_and_how_good(run, tmp_path):
    card = (hub.save_pretrained(run, tmp_path / "hub") / "README.md").read_text()
    header = card.split("---")[1]
    assert "library_name: nonlocalnn" in header
    assert "pipeline_tag: video-classification" in header
    assert "- Network: `nl2_c2d_tiny` with instantiation='concatenation'" in card
    assert "- Classes (2): run, walk" in card
    assert (
        "Test accuracy: 0.8750 on 64 samples, seed 3, after 90 steps; chosen by validation at epoch 7."
        in card
    )


@pytest.mark.parametrize(("count", "end"), [(20, "c18, c19"), (21, "c18, c19 and more")])
def test_a_card_lists_up_to_twenty_classes(tmp_path, count, end):
    model = nl.create_model("nl2_c2d_tiny", num_classes=count)
    facts = {**FACTS, "classes": [f"c{number}" for number in range(count)]}
    nl.save_checkpoint(model, tmp_path / "a.safetensors", metadata=facts)
    lines = hub.model_card(nl.load_classifier(tmp_path / "a.safetensors")).splitlines()
    (line,) = [line for line in lines if line.startswith("- Classes")]
    assert line.startswith(f"- Classes ({count}): c0, c1, ")
    assert line.endswith(end)


def test_figures_of_videos_name_their_views_and_how_many_were_read(run):
    classifier = nl.load_classifier(run)
    test = {"accuracy": 0.1, "mean_average_precision": 0.5, "num_covered": 61, "num_samples": 64}
    card = hub.model_card(classifier, {**METRICS, "test": {**test, "views": "30 views (10 clips x 3 crops)"}})
    says = "Test mean average precision: 0.5000 on 61 samples, 30 views (10 clips x 3 crops), seed 3"
    assert says in card


def test_a_checkpoint_alone_has_no_figures(run, tmp_path):
    folder = hub.save_pretrained(run / "best.safetensors", tmp_path / "hub")
    assert "Test accuracy" not in (folder / "README.md").read_text()


def test_from_and_to_the_hub(run, tmp_path, monkeypatch):
    hub_library = pytest.importorskip("huggingface_hub")
    calls = []

    def upload(*, repo_id, folder_path):
        calls.append((repo_id, sorted(path.name for path in type(tmp_path)(folder_path).iterdir())))
        return "https://example.org/commit"

    monkeypatch.setattr(
        hub_library, "create_repo", lambda *words, **settings: calls.append((words, settings))
    )
    monkeypatch.setattr(hub_library, "upload_folder", upload)
    assert hub.push_to_hub(run, "me/net", private=True) == "https://example.org/commit"
    assert calls == [
        (("me/net",), {"private": True, "exist_ok": True}),
        ("me/net", ["README.md", "model.safetensors"]),
    ]
    folder = hub.save_pretrained(run, tmp_path / "hub")

    def download(repository, name, *, revision):
        assert (repository, revision) == ("me/net", "v2")
        return str(folder / name)

    monkeypatch.setattr(hub_library, "hf_hub_download", download)
    assert hub.from_pretrained("me/net", revision="v2").classes == ("run", "walk")


def test_wrong_folders_and_a_missing_library(run, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*model\.safetensors"):
        hub.from_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="is a folder and has no revision 'v2'"):
        hub.from_pretrained(run, revision="v2")
    with pytest.raises(FileNotFoundError, match="holds no finished epoch"):
        hub.save_pretrained(tmp_path / "empty", tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"nonlocalnn\[hub\]"):
        hub.from_pretrained("me/net")
