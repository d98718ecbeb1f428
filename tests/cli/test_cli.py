"""The command line: what it does, and one clear line with the right status where it can't."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.cli import COMMANDS, main
from nonlocalnn.cli.flags.train import parser
from nonlocalnn.data import cue
from nonlocalnn.train import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


def test_overview_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert nl.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"nonlocalnn {command}" in text


def test_the_overview_into_a_pipe_that_nobody_reads():
    with subprocess.Popen(
        [sys.executable, "-m", "nonlocalnn", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 1


def test_unknown_command_and_flag(capsys):
    fails(capsys, "evalute", status=2, says="no command 'evalute' (did you mean 'evaluate'?)")
    fails(capsys, "predict", "--modle", "x", status=2, says="--model")
    fails(capsys, "train", "--epochz", "3", status=2, says="epochz")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--image_size", "32"], "there is no flag --image_size (did you mean '--image-size'?)"),
        (["--image-size", "64px"], ": --image-size must be a whole number; got '64px'"),
        (["--image-size=64,64"], ": --image-size must be a whole number; got '64,64'"),
        (["--epochs", "ten"], ": --epochs must be a whole number; got 'ten'"),
        (["--config", "{tmp}/words.yaml"], ": epochs must be a whole number; got 'many'"),
        (["--lr", "fast"], ": --lr must be a number; got 'fast'"),
        (["--augment", "maybe"], ": --augment must be true or false; got 'maybe'"),
        (["--scales", "1"], ": --scales must be numbers in brackets, such as [1,2]; got '1'"),
        (["--model-overrides", "x"], ": --model-overrides must be a JSON object"),
        (
            ["--optimizer", "adan"],
            ": --optimizer must be one of 'adam', 'adamw', 'sgd'; got 'adan' (did you mean 'adam'?)",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_flag_is_refused_in_the_words_that_were_typed(words, says, tmp_path, capsys):
    (tmp_path / "words.yaml").write_text("epochs: many\n")
    fails(capsys, "train", *(word.format(tmp=tmp_path) for word in words), status=2, says=says)


@pytest.mark.slow
def test_train_evaluate_predict_and_resume(tmp_path, photo, capsys):
    run = tmp_path / "run"
    config = tmp_path / "recipe.yaml"
    config.write_text("data: digits\nepochs: 2\nlr: 0.002\n")
    assert main(["train", "--config", str(config), "--output", str(run), "--batch-size", "128"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["epochs"], recipe["lr"], recipe["batch_size"]) == (2, 0.002, 128)
    recorded = json.loads((run / "metrics.json").read_text())

    assert main(["evaluate", "--model", str(run), "--output", str(run / "evaluation")]) == 0
    accuracy, top5 = recorded["test"]["accuracy"], recorded["test"]["top5_accuracy"]
    found = f"accuracy {accuracy:.4f} (top-5 {top5:.4f}) on 353 samples of digits/test"
    assert found in capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text()) == recorded
    report = json.loads((run / "evaluation/metrics.json").read_text())
    assert report["confusion"] == recorded["test"]["confusion"]
    with Image.open(run / "evaluation/confusion.png") as picture:
        assert picture.format == "PNG"

    assert main(["predict", str(photo), "--model", str(run), "--top", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(photo)
    assert len(answer["top"]) == 2
    assert answer["probability"] >= answer["top"][1]["probability"]

    assert main(["train", "--config", str(config), "--output", str(run)]) == 1
    assert "already holds a run: use --resume" in capsys.readouterr().err
    resumed = ["train", "--config", str(config), "--output", str(run), "--batch-size", "128", "--resume"]
    assert main(resumed) == 0
    # The run knows its recipe, whose settings may be named and need not be.
    capsys.readouterr()
    assert main(["train", "--resume", f"--output={run}"]) == 0
    assert f"results in {run}" in capsys.readouterr().out


def test_what_is_typed_beside_resume_wins_over_the_recipe_of_the_run(tmp_path, capsys):
    copied = tmp_path / "copied"
    copied.mkdir()
    recipe = Recipe(data="digits", epochs=2, lr=0.002, output=Path("runs/original"))
    (copied / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    words = ["--epochs", "7", "--num-workers", "1", "--data-dir", "elsewhere", "--print-config"]
    assert main(["train", "--resume", "--output", str(copied), *words]) == 0
    text = capsys.readouterr().out
    for line in ("epochs: 7", "lr: 0.002", "num_workers: 1", "data_dir: elsewhere", f"output: {copied}"):
        assert f"\n{line}\n" in f"\n{text}", line


def test_print_config_can_be_loaded_again(tmp_path, capsys):
    assert main(["train", "--lr", "0.3", "--model-overrides.blocks", "false", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "lr: 0.3" in text
    path = tmp_path / "printed.yaml"
    path.write_text(text)
    assert main(["train", "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_a_recipe_is_found_by_its_name_unless_a_file_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # A folder of that name, such as one of data, is no recipe.
    (tmp_path / "cue-tiny").mkdir()
    assert main(["train", "--config", "cue-tiny", "--epochs", "5", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "model: nl2_c2d_tiny" in text
    assert "\nepochs: 5" in text
    assert main(["train", "--config=digits", "--print-config"]) == 0
    assert "lr: 0.002" in capsys.readouterr().out
    (tmp_path / "digits").write_text("lr: 0.25\n")
    assert main(["train", "--config=digits", "--print-config"]) == 0
    assert "lr: 0.25" in capsys.readouterr().out
    assert main(["train", "--config", "{lr: 0.5}", "--print-config"]) == 0
    assert "lr: 0.5" in capsys.readouterr().out


def test_the_home_folder_where_no_shell_puts_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("data: images\ndata_dir: ~/pets\noutput: ~/run\n")
    recipe, _ = parser().parse_words(["--config", str(tmp_path / "recipe.yaml")])
    assert (recipe.data_dir, recipe.output) == (tmp_path / "pets", tmp_path / "run")
    fails(capsys, "predict", "a.png", "--model=~/none", status=1, says=f"no checkpoint {tmp_path}/none")


@pytest.mark.parametrize(
    ("text", "says"), [("", "got nothing"), ("# none\n", "got '# none'"), ("- a", "- a")]
)
def test_a_file_without_fields(tmp_path, text, says, capsys):
    (tmp_path / "recipe.yaml").write_text(text)
    config = str(tmp_path / "recipe.yaml")
    fails(capsys, "train", "--config", config, status=2, says="must be a file of fields and their values")
    fails(capsys, "train", "--config", config, status=2, says=says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cue-tyni", "got 'cue-tyni' (did you mean 'cue-tiny'?)"),
        ("runs/none/recipe.json", "must be one of 'ade20k-r50-80k', 'charades', "),
    ],
)
def test_neither_a_file_nor_a_recipe(name, says, capsys):
    fails(capsys, "train", "--config", name, status=1, says=says)


def test_predict_folder_skips_nothing_and_reports_the_broken(tmp_path, checkpoint, photo, capsys):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(photo.read_bytes())
    (folder / "b.png").write_bytes(photo.read_bytes()[:60])
    (folder / "deep" / "c.PNG").write_bytes(photo.read_bytes())
    (folder / "notes.txt").write_text("no image")
    output = tmp_path / "answers.jsonl"
    with pytest.warns(UserWarning, match=r"passed over.*notes\.txt"):
        assert main(["predict", str(folder), "--model", str(checkpoint), "--output", str(output)]) == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["path"].removeprefix(str(folder)) for row in rows] == ["/a.png", "/b.png", "/deep/c.PNG"]
    assert ["error" in row for row in rows] == [False, True, False]
    assert "cannot read image" in capsys.readouterr().err
    assert rows[0]["top"] == rows[2]["top"]


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
    """A run on a few generated clips."""
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cue, "NUM_SAMPLES", {"train": 32, "validation": 16, "test": 24})
        words = ["train", "--data", "cue", "--model", "nl2_c2d_tiny", "--epochs", "1", "--batch-size", "16"]
        assert main([*words, "--frames", "6", "--output", str(run)]) == 0
    return run


def test_train_and_evaluate_clips(tmp_path, clip_run, capsys, monkeypatch):
    monkeypatch.setattr(cue, "NUM_SAMPLES", {"train": 32, "validation": 16, "test": 24})
    recorded = json.loads((clip_run / "metrics.json").read_text())["test"]
    assert main(["evaluate", "--model", str(clip_run), "--output", str(tmp_path)]) == 0
    top5 = recorded["top5_accuracy"]
    found = f"accuracy {recorded['accuracy']:.4f} (top-5 {top5:.4f}) on 24 samples of cue/test"
    assert found in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["confusion"] == recorded["confusion"]
    assert main(["cost", str(clip_run)]) == 0
    # The network is asked about clips as long as those that it learnt from.
    assert read_metadata(clip_run / "best.safetensors")["sample_shape"] == [3, 6, 32, 32]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "{photo}", "--model", "{run}"], "{photo} is an image, and the model takes videos"),
        (
            ["evaluate", "--data", "digits", "--model", "{run}"],
            "'digits' has images",
        ),
        (
            ["evaluate", "--data", "cue-sequence", "--model", "{run}"],
            "'cue-sequence' has sequences",
        ),
        (
            ["train", "--data", "cue", "--model", "nl_digits"],
            "'nl_digits' takes images, and the samples of 'cue' are clips",
        ),
        (["train", "--data", "cue-sequence", "--image-size", "32"], "has no frames and no --image-size"),
    ],
)
def test_clips_where_images_are_wanted(words, says, clip_run, photo, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"run": clip_run, "photo": photo}
    fails(capsys, *(word.format(**places) for word in words), status=1, says=says.format(**places))


def test_models_are_listed_by_their_use(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == nl.list_models()
    count = sum(parameter.numel() for parameter in nl.create_model("nl_digits").parameters())
    assert f"  {'nl_digits':<24}{count:>12,} parameters  sample 1x28x28" in lines
    headings = [line for line in lines if line and not line.startswith("  ")]
    assert headings[0] == "images, small: to train from scratch in minutes"
    assert "videos: I3D, 3 x 1 x 1" in headings
    place = lines.index("videos: I3D, 3 x 1 x 1")
    assert lines[place + 1].split()[0] == "i3d_r101_128x1"


def test_models_are_filtered(capsys):
    assert main(["models", "tiny", "nl2_"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert sorted(listed) == [
        *("nl2_c1d_tiny", "nl2_c2d_tiny", "nl2_resnet1d_tiny", "nl2_resnet3d_tiny", "nl2_resnet_tiny")
    ]
    assert main(["models", "tiny", "--of", "sequences"]) == 0
    assert "c2d" not in capsys.readouterr().out
    fails(capsys, "models", "i3d", "tinny", status=1, says="no network's name fits i3d tinny")
    fails(capsys, "models", "--of", "video", status=2, says="invalid choice: 'video'")
    fails(capsys, "models", "i3d", "--cost", status=2, says="leave out WORD")


def bad_folder(tmp_path):
    for name in ("train/cat", "train/dog", "validation/cat", "validation/dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
    Image.new("L", (9, 9)).save(tmp_path / "data/train/cat/1.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--data", "digts"], "got 'digts' (did you mean 'digits'?)"),
        (["train", "--data", "images"], "'images' needs --data-dir: the folder"),
        (["train", "--data", "images", "--data-dir", "{bad}"], "holds no image"),
        (["train", "--data", "images", "--data-dir", "absent"], "absent"),
        (["train", "--model", "nl_digit"], "did you mean 'nl_digits'?"),
        (
            ["train", "--model-overrides.instantiation", "embeded_gaussian"],
            "did you mean 'embedded_gaussian'?",
        ),
        (["train", "--model-overrides", '{"instantiation": "dot_product", "use_scale": true}'], "use_scale"),
        (["train", "--lr", "-1"], ": --lr must be greater than zero"),
        (["train", "--device", "cuda:9"], "device 'cuda:9' is not there"),
        (["train", "--resume", "--output", "{tmp}/absent"], "no run to resume"),
        (["evaluate", "--model", "absent.safetensors"], "there is no checkpoint absent.safetensors"),
        (["evaluate", "--model", "{tmp}"], "holds no finished epoch"),
        (["evaluate", "--model", "{model}", "--data", "mnist", "--data-dir", "{tmp}"], "{tmp}"),
        (["predict", "absent.png", "--model", "{model}"], "absent.png"),
        (["predict", "{corrupt}", "--model", "{model}"], "cannot read image {corrupt}"),
        (["predict", "{photo}", "--model", "{corrupt}"], "no checkpoint: it begins like a PNG image"),
        (["predict", "{heic}", "--model", "{model}"], "it is a HEIC photograph, which this Pillow does not"),
        (["predict", "{mp4}", "--model", "{model}"], "it is a video (MP4 or MOV), and an image is wanted"),
        (["convert", "absent.pth", "x.safetensors"], "there is no checkpoint absent.pth"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(words, says, tmp_path, checkpoint, photo, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 9)
    places = {"tmp": tmp_path, "model": checkpoint, "photo": photo, "corrupt": corrupt}
    for name, brand in (("heic", b"heic"), ("mp4", b"isom")):
        places[name] = tmp_path / f"a.{name}"
        places[name].write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(99))
    if "{bad}" in words:
        places["bad"] = bad_folder(tmp_path)

    def fill(word):
        return word if word.startswith('{"') else word.format(**places)

    fails(capsys, *map(fill, words), status=1, says=fill(says))


def test_a_checkpoint_of_another_network(tmp_path, capsys):
    facts = {"classes": ["a", "b"], "image_size": [28, 28], "channels": 1}
    nl.save_checkpoint(torch.nn.Linear(2, 2), tmp_path / "linear.safetensors", metadata=facts)
    words = ("evaluate", "--model", tmp_path / "linear.safetensors", "--data", "digits")
    fails(capsys, *words, status=1, says="does not say what builds its model")


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "--model", "absent.safetensors", "--data", "digits", "--debug"])


def test_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nonlocalnn", "evaluate", "--model", "absent"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "nonlocalnn evaluate: there is no checkpoint absent\n"


def test_a_warning_is_one_line_that_names_no_line_of_the_source(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "1.heic").touch()
    words = [sys.executable, "-m", "nonlocalnn", "data", "check", str(tmp_path), "--workers", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("nonlocalnn data: 1 entry of ")
    assert ".py" not in line


def test_train_takes_a_folder(tmp_path, capsys):
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).touch()
    folder = str(tmp_path / "photos")
    assert main(["train", folder, "--config", "digits", "--print-config"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "data: images" in said
    assert f"data_dir: {folder}" in said
    assert main(["train", folder, "--data=archives", "--print-config"]) == 0
    assert "data: archives" in capsys.readouterr().out.splitlines()
    says = f"before all flags: nonlocalnn train {folder}"
    fails(capsys, "train", "--epochs", "1", folder, status=2, says=says)
    assert main(["train", folder, "--data-dir", "x"]) == 1
    assert "the folder is named twice" in capsys.readouterr().err
    assert main(["train", "no-such-folder"]) == 1
    assert "there is no folder no-such-folder of images or videos" in capsys.readouterr().err
