"""What is typed: help at once and in plain words, refusals in one line, settings spelled as flags."""

import re
import subprocess
import sys

import pytest
from one_line import fails

from nonlocalnn.cli import COMMANDS, main
from nonlocalnn.cli.flags import spelled_as_typed
from nonlocalnn.cli.flags.evaluate import parser as evaluate_parser
from nonlocalnn.cli.flags.explore import parser as explore_parser
from nonlocalnn.cli.flags.train import parser as train_parser
from nonlocalnn.data import list_datasets
from nonlocalnn.explorer.job import Limits


def test_help_imports_neither_torch_nor_what_needs_it():
    # One process for all: once torch is there, it stays there.
    code = (
        "import contextlib, io, sys\n"
        "from nonlocalnn.cli import COMMANDS, main\n"
        "for words in [['--help'], ['--version'], *[[name, '--help'] for name in COMMANDS], "
        "['data', 'check', '--help']]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        assert main(words) == 0\n"
        "    assert said.getvalue().strip()\n"
        "    heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'av', 'matplotlib'}.intersection(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def help_of(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


HELPS = (*COMMANDS, *(f"data {action}" for action in ("check", "shrink", "archives", "cue")))


@pytest.mark.parametrize("command", HELPS)
def test_help_speaks_of_flags_and_not_of_python(command, capsys):
    text = help_of(command, capsys)
    # Flags with underscores, types and defaults of Python, and the marks of docstrings.
    found = re.findall(
        r"--\w*_\w+|:\w+:`|``|\| None|<class|default: (?:null|None|True|False)|Optional\[|[A-Z]+_[A-Z]+", text
    )
    assert found == []
    assert not re.search(r"--\w[\w-]*-$", text, re.M), "a flag is cut in two"


@pytest.mark.parametrize("command", ["train", "evaluate", "maps", "explain"])
def test_help_names_the_data_sets(command, capsys):
    text = help_of(command, capsys)
    assert all(re.search(rf"\b{name}\b", text) for name in list_datasets())


def test_help_of_train_names_what_it_learns_and_its_flags(capsys):
    text = help_of("train", capsys)
    assert "classify images, videos, sequences or volumes" in text
    assert len(text.splitlines()[0]) < 80, "the usage is one line"
    assert "--lr-batch-size N" in text
    assert "--data-dir PATH" in text
    assert "--warmup-epochs X" in text
    # What is added in place of backticks is a flag that there is.
    flags = {flag.replace("_", "-") for flag in train_parser()._option_string_actions}
    named = {re.split(r"[.]", each)[0] for each in re.findall(r"--[a-z][\w.-]*\w", text)}
    assert named <= flags


def test_the_limits_of_explore_are_those_of_its_jobs():
    args = explore_parser().parse_args(["--model", "m"])
    limits = Limits()
    assert args.max_upload_mib * (1 << 20) == limits.upload_bytes
    assert args.time_limit == limits.seconds
    assert args.memory_limit_mib * (1 << 20) == limits.memory_bytes
    assert args.max_queued == limits.queued


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "--modle", "m"], "there is no flag --modle (did you mean '--model'?)"),
        (["evaluate", "--model", "m", "--view", "30", "--splitt", "test"], "did you mean '--split'?"),
        (["data", "check", "x", "--wokers", "1"], "did you mean '--workers'?"),
        (["train", "--batchsize", "3"], "there is no flag --batchsize (did you mean '--batch-size'?)"),
        (["train", "--modl-overrides.depth", "3"], "there is no flag --modl-overrides"),
        (["train", "--epochs", "many"], "epochs"),
        (["maps", "--model", "m", "--format", "gf"], "argument --format: invalid choice: 'gf'"),
        (["maps", "--model", "m", "--queries", "a"], "a position is N, ROW,COLUMN"),
        (["cost", "nl_digits", "--input", "1x28"], "a shape is B,C,H,W"),
        (["evaluate"], "the following arguments are required: --model"),
        (["explain", "a.png"], "--model"),
        (["convert", "a"], "target"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_small_mistake_is_answered_in_one_line(words, says, capsys):
    fails(capsys, *words, status=2, says=says)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nonlocalnn {words[0]}")
    assert f"; see nonlocalnn {words[0]}" in line
    assert "usage" not in line


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("max_broken must be at least 0", "--max-broken must be at least 0"),
        ("so far, and max_broken is 0: mend them", "so far, and --max-broken is 0: mend them"),
        ("set data_dir.", "set --data-dir."),
        # Neither a path nor a longer name is a setting, nor what this command has no flag for.
        (
            "/home/data_dir/a.png, my_data_dir, data_dir.txt",
            "/home/data_dir/a.png, my_data_dir, data_dir.txt",
        ),
        ("use_scale is True", "use_scale is True"),
        ("views is a setting of videos", "views is a setting of videos"),
    ],
)
def test_settings_are_spelled_as_they_are_typed(text, typed):
    assert spelled_as_typed(text, evaluate_parser()) == typed


def test_errors_name_flags(capsys, checkpoint, tmp_path):
    words = ["evaluate", "--model", checkpoint, "--output", tmp_path / "out"]
    fails(capsys, *words, "--max-broken", "1", status=1, says="--max-broken applies to")
    fails(
        capsys, *words, "--num-workers", "-1", status=1, says="--num-workers must be a whole number of at le"
    )
    fails(
        capsys, *words, "--batch-size", "0", status=1, says="--batch-size must be a whole number of at least"
    )
    fails(capsys, "train", "--lr-batch-size", "0", status=1, says="--lr-batch-size must be at least 1")
    (tmp_path / "list.txt").write_text("a.png\n")
    words = [
        "predict",
        "--model",
        checkpoint,
        "--list",
        tmp_path / "list.txt",
        "--output-folder",
        tmp_path / "o",
    ]
    fails(
        capsys, *words, "--num-workers", "-2", status=1, says="--num-workers must be a whole number of at le"
    )
    assert not (tmp_path / "o").exists()
