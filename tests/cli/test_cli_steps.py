"""Labels of steps from the command line: from a file of sequences to tables, pictures, maps and a page."""

import json

import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.cli import main
from nonlocalnn.inference import StepSegmenter, load_segmenter
from step_files import draw, write_csv, write_npz
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("gait")
    write_csv(root / "gait_TRAIN.csv", range(40))
    write_csv(root / "gait_TEST.csv", range(40, 46))
    return root


@pytest.fixture(scope="session")
def run_folder(folder, tmp_path_factory):
    """A run that has learnt levels and waves."""
    output = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", str(folder), "--epochs", "8", "--lr", "0.01", "--batch-size", "8", "--device", "cpu"]
    assert main([*words, "--output", str(output)]) == 0
    return output


def test_train_and_evaluate(run_folder, folder, capsys):
    recipe = json.loads((run_folder / "recipe.json").read_text())
    assert (recipe["data"], recipe["model"]) == ("sequence-labels", "nl_unet1d_tiny")
    recorded = json.loads((run_folder / "metrics.json").read_text())
    assert recorded["test"]["mean_f1"] > 0.9
    assert main(["evaluate", "--model", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert f"mean F1 {recorded['test']['mean_f1']:.4f} (over 3 of 3 classes)" in said
    assert "of steps" in said
    report = json.loads((run_folder / "evaluation-sequence-labels-test/metrics.json").read_text())
    assert sum(map(sum, report["confusion"])) == sum(len(draw(index)[1]) for index in range(40, 46))


def test_predict_writes_tables_pictures_and_lines(run_folder, folder, tmp_path, capsys):
    (tmp_path / "broken.npy").write_bytes(b"x")
    words = [str(folder / "gait_TEST.csv"), str(tmp_path / "broken.npy")]
    assert (
        main(["predict", *words, "--model", str(run_folder), "--output-folder", str(tmp_path / "out")]) == 1
    )
    said = capsys.readouterr()
    assert "broken.npy" in said.err
    lines = list(map(json.loads, said.out.splitlines()))
    assert len(lines) == 7
    first = lines[0]
    assert first["path"].endswith("gait_TEST.csv#s40")
    labels = draw(40)[1]
    table = (tmp_path / "out/gait_TEST-s40-labels.csv").read_text().splitlines()
    assert table[0] == "step,label"
    guessed = [row.split(",")[1] for row in table[1:]]
    assert sum(one == two for one, two in zip(guessed, labels, strict=True)) > 0.8 * len(labels)
    assert first["steps"] == len(labels) == first["runs"][-1]["last"] + 1
    assert [run["class"] for run in first["runs"]] == [
        label for place, label in enumerate(guessed) if place == 0 or guessed[place - 1] != label
    ]
    with Image.open(first["overlay"]) as picture:
        assert min(picture.size) > 200


def test_answers_do_not_depend_on_the_file(run_folder, tmp_path):
    loaded = load_segmenter(run_folder)
    assert isinstance(loaded, StepSegmenter)
    sequence, _ = draw(50)
    write_npz(tmp_path / "a.npz", [50])
    write_csv(tmp_path / "b.csv", [50])
    write_csv(tmp_path / "c.csv", [50], header="a,b,label")
    write_csv(tmp_path / "d.csv", [50], header="a,b")
    names = ["a.npz#0", "b.csv#s50", "b.csv", "c.csv", "d.csv"]
    expected = loaded.labels(torch.tensor(sequence))
    for name in names:
        assert_near(loaded.read(tmp_path / name), torch.tensor(sequence))
        assert loaded.labels(loaded.read(tmp_path / name)).tolist() == expected.tolist()
    found = list(loaded.predict_many(tmp_path))
    assert [each.path.name for each in found] == ["a.npz#0", "b.csv#s50", "c.csv", "d.csv"]
    assert all(each.labels.tolist() == expected.tolist() for each in found)


def test_maps_and_a_page(run_folder, folder, tmp_path, capsys):
    name = str(folder / "gait_TEST.csv#s41")
    words = ["--model", str(run_folder), "--rate", "10"]
    assert main(["maps", name, *words, "--pixels", "4", "--output", str(tmp_path / "maps")]) == 0
    (made,) = (tmp_path / "maps").iterdir()
    with Image.open(made / "labels.png") as picture:
        assert picture.size[0] > 500
    assert main(["explain", name, *words, "--output", str(tmp_path / "page.html")]) == 0
    assert "most steps" in capsys.readouterr().out
    assert "wave" in (tmp_path / "page.html").read_text()
    words = ["--data", "sequence-labels", "--sample", "1", "--model", str(run_folder)]
    assert main(["explain", *words, "--output", str(tmp_path / "other.html")]) == 0


@pytest.mark.slow
def test_export(run_folder, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert main(["export", str(run_folder), "--output", str(tmp_path / "a.onnx")]) == 0
    assert "any size: batch, length" in capsys.readouterr().out


def test_what_is_refused(run_folder, folder, tmp_path, capsys):
    model = ["--model", run_folder]
    fails(capsys, "evaluate", *model, "--window", 9, status=1, says="--window has no effect")
    other = ["--data", "sequences", "--data-dir", folder]
    fails(capsys, "evaluate", *model, *other, status=1, says="'sequences' has none")
    write_csv(tmp_path / "one.csv", [1], header="id,a,label")
    fails(
        capsys, "predict", tmp_path / "one.csv", *model, status=1, says="must have the channels a, b; got a"
    )
    page = ["--output", tmp_path / "page.html"]
    fails(
        capsys,
        "explain",
        folder / "gait_TEST.csv",
        *model,
        *page,
        status=1,
        says="holds 6 sequences: name one",
    )


def answered(run_folder, path, tmp_path, capsys):
    words = ["predict", str(path), "--model", str(run_folder), "--output-folder", str(tmp_path / "named")]
    status = main(words)
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("header", ["time,a,b", "a,b", "b,a", "id,b,time,a"])
def test_columns_go_by_their_names(run_folder, header, tmp_path, capsys):
    path = write_csv(tmp_path / "new.csv", [40], header=header)
    status, found = answered(run_folder, path, tmp_path, capsys)
    assert status == 0
    wanted = load_segmenter(run_folder).labels(torch.tensor(draw(40)[0]))
    steps = [run["class"] for run in found["runs"] for _ in range(run["first"], run["last"] + 1)]
    names = load_segmenter(run_folder).classes
    assert steps == [names[each] for each in wanted.tolist()]


def test_columns_without_names_are_taken_in_their_order_and_other_names_refused(run_folder, tmp_path, capsys):
    text = write_csv(tmp_path / "new.csv", [40], header="a,b").read_text()
    (tmp_path / "bare.csv").write_text(text.split("\n", 1)[1])
    assert answered(run_folder, tmp_path / "bare.csv", tmp_path, capsys)[0] == 0
    (tmp_path / "other.csv").write_text(text.replace("a,b", "a,knee"))
    status, found = answered(run_folder, tmp_path / "other.csv", tmp_path, capsys)
    assert status == 1
    assert "other.csv must have the channels a, b; got a, knee" in found["error"]


def test_names_of_channels_in_a_checkpoint_are_checked(tmp_path):
    path = tmp_path / "steps.safetensors"
    facts = {"task": "segmentation", "classes": ["x", "y"], "sample_shape": [2, 64]}
    for names, says in (
        (["a"], "name each of its 2 channels"),
        (["a", "a"], "got \\['a', 'a'"),
        ("ab", "got 'ab'"),
    ):
        nl.save_checkpoint(
            nl.create_model("nl_unet1d_tiny", num_classes=2, in_channels=2, width=4), path,
            metadata={**facts, "channel_names": names},
        )  # fmt: skip
        with pytest.raises(CheckpointError, match=says):
            load_segmenter(path)
