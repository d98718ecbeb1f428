"""Outputs: what cannot be written is said before the work, and no result is written over another's."""

import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from one_line import fails

import nonlocalnn as nl
from nonlocalnn.cli import main
from nonlocalnn.cli.outputs import check_file, check_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture
def run_folder(checkpoint, tmp_path):
    """A folder such as a training leaves."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(checkpoint, folder / "best.safetensors")
    (folder / "metrics.json").write_text('{"best_epoch": 3}')
    return folder


def evaluated(*words):
    return main(["evaluate", "--data", "digits", "--batch-size", "353", *map(str, words)])


def test_an_evaluation_lies_beside_its_model_and_spares_the_training(run_folder, capsys):
    before = (run_folder / "metrics.json").read_text()
    assert evaluated("--model", run_folder) == 0
    own = run_folder / "evaluation-digits-test"
    assert f"results  {own}" in capsys.readouterr().out
    assert json.loads((own / "metrics.json").read_text())["split"] == "test"
    assert (own / "confusion.png").is_file()
    words = ("evaluate", "--model", run_folder, "--output", run_folder)
    fails(capsys, *words, status=1, says="holds a metrics.json that evaluate did not write")
    assert (run_folder / "metrics.json").read_text() == before
    # The same again replaces its own, and of a single file the folder has the file's name.
    assert evaluated("--model", run_folder) == 0
    assert evaluated("--model", run_folder / "best.safetensors", "--split", "validation") == 0
    assert (run_folder / "best-evaluation-digits-validation" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"model": "elsewhere"}, "whose model was 'elsewhere'"),
        ({"data": "mnist"}, "whose data was 'mnist' and is 'digits' now"),
        ({"split": "train"}, "whose split was 'train' and is 'test' now"),
        ({"views": "1 clip"}, "whose views was '1 clip' and is None now"),
        ({"data_dir": "photos"}, "whose data_dir was 'photos' and is None now"),
        (None, "holds a metrics.json that evaluate did not write"),
    ],
    ids=str,
)
def test_the_result_of_another_evaluation_is_spared(checkpoint, tmp_path, capsys, other, says):
    report = {"model": str(checkpoint), "data": "digits", "split": "test"}
    (tmp_path / "metrics.json").write_text("[1]" if other is None else json.dumps(report | other))
    words = ("evaluate", "--model", checkpoint, "--output", tmp_path)
    fails(capsys, *words, status=1, says=says.replace("data_dir", "--data-dir"))
    # A report of before that says no more than this is of the same evaluation.
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    assert evaluated("--model", checkpoint, "--output", tmp_path) == 0


def test_a_picture_of_somebody_else_is_spared(checkpoint, tmp_path, capsys):
    (tmp_path / "confusion.png").write_text("mine")
    words = ("evaluate", "--model", checkpoint, "--output", tmp_path)
    fails(capsys, *words, status=1, says="holds a confusion.png that evaluate did not write")
    assert (tmp_path / "confusion.png").read_text() == "mine"


def never(*_, **__):
    raise AssertionError("the work had begun")


FOLDERS = [
    ["train", "--output"],
    ["evaluate", "--model", "{model}", "--output"],
    ["maps", "{photo}", "--model", "{model}", "--output"],
    ["predict", "--list", "{photo}", "--model", "{model}", "--output-folder"],
    ["explain", "{photo}", "{photo}", "--model", "{model}", "--output"],
    ["data", "shrink", "{tmp}"],
    ["data", "archives", "{tmp}"],
    ["data", "cue"],
]
FILES = [
    ["predict", "{photo}", "--model", "{model}", "--output"],
    ["convert", "{model}"],
    ["export", "{model}", "--output"],
]


@pytest.fixture
def places(tmp_path, checkpoint, photo, monkeypatch):
    # What would be computed before the output is found to be wrong.
    for name in ("predict", "maps", "explain", "export", "evaluate"):
        monkeypatch.setattr(f"nonlocalnn.cli.{name}.load_model", never, raising=False)
    for name in ("train.train", "convert.import_checkpoint", "data.write_archives", "predict.predict_list"):
        monkeypatch.setattr(f"nonlocalnn.cli.{name}", never)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    return {"tmp": tmp_path, "model": checkpoint, "photo": photo}


@pytest.mark.parametrize("words", FOLDERS, ids=lambda words: " ".join(words[:2]))
def test_a_file_where_a_folder_is_to_be_filled(words, places, tmp_path, capsys):
    words = [word.format(**places) for word in words]
    fails(
        capsys,
        *words,
        tmp_path / "file",
        status=1,
        says=f"must be a folder, and {tmp_path / 'file'} is a file",
    )
    inside = tmp_path / "file" / "deep" / "out"
    fails(capsys, *words, inside, status=1, says=f"{inside} cannot be made: {tmp_path / 'file'} is a file")
    fails(capsys, *words, tmp_path / ("x" * 300), status=1, says="cannot be made: File name too long")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("words", FILES, ids=lambda words: words[0])
def test_a_folder_where_a_file_is_to_be_written(words, places, tmp_path, capsys):
    words = [word.format(**places) for word in words]
    says = f"must be a file, and {tmp_path / 'folder'} is a folder: name a file"
    fails(capsys, *words, tmp_path / "folder", status=1, says=says)
    inside = tmp_path / "file" / "out"
    fails(capsys, *words, inside, status=1, says=f"{inside} cannot be made: {tmp_path / 'file'} is a file")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_device_is_not_replaced(places, capsys):
    words = ("predict", places["photo"], "--model", places["model"], "--output", "/dev/null")
    fails(capsys, *words, status=1, says="must be a regular file, and /dev/null is none")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_page_does_not_replace_a_folder_nor_what_is_read(tmp_path, checkpoint, photo, capsys):
    (tmp_path / "file").touch()
    words = ("explain", photo, "--model", checkpoint, "-o")
    fails(capsys, *words, tmp_path / "file" / "a.html", status=1, says="is a file, and no folder")
    fails(capsys, *words, photo, status=2, says="--output must end with .html or be a folder")
    named = photo.rename(photo.with_suffix(".html"))
    words = ("explain", named, "--model", checkpoint, "-o", named)
    fails(capsys, *words, status=1, says=f"would overwrite {named}, which is read")


def test_the_weights_of_a_run_are_not_overwritten(run_folder, photo, capsys):
    before = (run_folder / "best.safetensors").read_bytes()
    for words in (["predict", photo, "--model", run_folder], ["export", run_folder]):
        output = run_folder / "best.safetensors"
        fails(capsys, *words, "--output", output, status=1, says=f"would overwrite {output}")
    assert (run_folder / "best.safetensors").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks Linux for a folder that root cannot write")
def test_export_says_where_it_cannot_write_before_the_work(run_folder, capsys):
    words = ("export", run_folder, "--output", "/proc/x.onnx")
    says = "--output /proc/x.onnx cannot be made: /proc may not be written: choose another"
    fails(capsys, *words, status=1, says=says)


def test_what_may_not_be_written_is_said(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"cannot be made: .* may not be written: choose another"):
        check_folder(tmp_path / "new" / "deep")
    with pytest.raises(PermissionError, match="may not be written"):
        check_file(tmp_path / "a.txt")


def test_what_is_not_there_yet_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_file(tmp_path / "new" / "deep" / "a.txt")
    check_folder(tmp_path / "new" / "deep")
    check_folder(tmp_path)
    check_file(Path("a.txt"))
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_system_have_no_number(tmp_path, checkpoint, capsys):
    words = ("convert", checkpoint, tmp_path / "out.safetensors", "--classes", tmp_path)
    fails(capsys, *words, status=1, says=f"{tmp_path} cannot be used: is a directory")


@pytest.mark.parametrize("flag", [[], ["--resume"], ["--resume-if-any"]], ids=" ".join)
def test_a_run_without_its_states_has_one_answer(run_folder, capsys, flag):
    says = f"{run_folder} holds best.safetensors and metrics.json of a run, and no run to resume: last and"
    fails(capsys, "train", "--output", run_folder, *flag, status=1, says=says)
    assert sorted(path.name for path in run_folder.iterdir()) == ["best.safetensors", "metrics.json"]


def test_a_folder_is_explained_by_naming_its_files(tmp_path, checkpoint, photo, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    says = "one image is taken at a time, and {} is a folder of files: name them one by one, or draw all with"
    fails(capsys, "explain", folder, "--model", checkpoint, status=1, says=says.format(folder))


def test_a_checkpoint_of_another_code_base_is_read_as_it_is(tmp_path, photo, capsys):
    from alexhex7 import randomized

    torch.manual_seed(0)
    torch.save(randomized("embedded_gaussian").state_dict(), tmp_path / "their.pth")
    assert main(["predict", str(photo), "--model", str(tmp_path / "their.pth")]) == 0
    assert "class" in json.loads(capsys.readouterr().out)
    nl.save_checkpoint(nl.create_model("nl_digits"), tmp_path / "ours.safetensors")
    assert main(["predict", str(photo), "--model", str(tmp_path / "ours.safetensors")]) == 0
