"""What the library's source never says, and what files of weights never do."""

import ast
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import nonlocalnn
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint
from nonlocalnn.cli import main
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.state.resuming import read_state

SOURCE = Path(nonlocalnn.__file__).parent
# Calls that run what a file or a text says, or that write where a file says.
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.spawnl", "os.startfile"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "marshal.load", "shelve.open"),
    *(
        "joblib.load",
        "dill.load",
        "dill.loads",
        "cloudpickle.load",
        "cloudpickle.loads",
    ),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "torch.hub.load"),
    *("shutil.unpack_archive", "torch.jit.load"),
}
FORBIDDEN_METHODS = {"extractall", "extract"}
FORBIDDEN_MODULES = {
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "pty",
    "telnetlib",
    "ftplib",
}
# Who may import what else could be misused, and why.
ALLOWED_IMPORTS = {
    ("pickle", "checkpoints/state.py"): "names the error of torch.load",
    ("pickle", "checkpoints/pickled_arrays.py"): "names the error of a damaged pickle",
    (
        "pickle",
        "checkpoints/restricted_pickle.py",
    ): "subclasses whose find_class knows a fixed list of names, none imported",
    ("pickle", "train/state/resuming.py"): "a subclass whose find_class knows a fixed list of names",
    ("tarfile", "data/archives/index.py"): "reads members where they lie; nothing is unpacked to disk",
    ("tarfile", "data/archives/writing.py"): "writes archives",
    (
        "torch.multiprocessing",
        "surgery/detectors.py",
    ): "a weak reference to memory; nothing is shared or sent",
    ("multiprocessing", "explorer/worker.py"): "names the type of its end of a pipe",
    ("multiprocessing", "explorer/runner.py"): "spawns the process that decodes files; it sends JSON",
    ("multiprocessing", "cli/data.py"): "spawns processes that check and shrink videos",
    ("importlib", "__init__.py"): "imports the rooms of this library, of a fixed list, on first use",
    ("importlib", "_moved.py"): "imports a module of this library, of a fixed list, under its old name",
    ("importlib", "cli/__init__.py"): "imports a command of this library, of a fixed list",
    ("zipfile", "checkpoints/state.py"): "adds up declared sizes; nothing is unpacked to disk",
}
WATCHED_MODULES = {
    "pickle",
    "subprocess",
    "multiprocessing",
    "torch.multiprocessing",
    "importlib",
    "tarfile",
    "ctypes",
}


def trees():
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def full_names(tree):
    """Return what imported names stand for: ``load`` of ``from pickle import load`` is ``pickle.load``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(node, names):
    first, *rest = ast.unparse(node.func).split(".")
    return ".".join([names.get(first, first), *rest])


def keywords(node):
    return {each.arg: ast.unparse(each.value) for each in node.keywords}


def offences(tree):
    """Return the lines of a source that run, or might run, what they are given."""
    names, found = full_names(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, given = called(node, names), keywords(node)
        is_wrong = name in FORBIDDEN_CALLS or (
            isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_METHODS
        )
        is_wrong |= name == "torch.load" and given.get("weights_only") != "True"
        is_wrong |= name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False"
        is_wrong |= name.startswith("subprocess.") and given.get("shell", "False") != "False"
        if is_wrong:
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


def test_the_source_runs_nothing_that_it_reads():
    found = {path: lines for path, tree in trees() if (lines := offences(tree))}
    assert found == {}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of(tree, wanted):
    """Return which of some modules a source imports, with their submodules that only look things up."""
    harmless = ("importlib.metadata", "importlib.resources", "importlib.util")
    for name in imported(tree):
        if not name.startswith(harmless):
            yield from (module for module in wanted if f"{name}.".startswith(f"{module}."))


def test_imports_that_could_be_misused_are_those_with_a_reason():
    found = {(module, path) for path, tree in trees() for module in modules_of(tree, WATCHED_MODULES)}
    unknown = found - set(ALLOWED_IMPORTS)
    assert unknown == set(), "each needs a reason in ALLOWED_IMPORTS"
    gone = {each for each in ALLOWED_IMPORTS if each[0] in WATCHED_MODULES} - found
    assert gone == set(), "reasons for what is no longer there"
    assert [path for path, tree in trees() if list(modules_of(tree, FORBIDDEN_MODULES))] == []


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import torch; torch.load(path, weights_only=flag)",
        "from torch import load; load(path)",
        "import pickle as p; p.loads(data)",
        "from pickle import Unpickler as U; U(file).load()",
        "eval(text)",
        "import os; os.system(text)",
        "import subprocess; subprocess.run(text, shell=True)",
        "import yaml; yaml.load(text, Loader=yaml.Loader)",
        "archive.extractall(folder)",
        "import tempfile; tempfile.mktemp()",
        "import numpy as np; np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_finds(line):
    assert offences(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(path, weights_only=True)",
        "import yaml; yaml.safe_load(text)",
        "import subprocess; subprocess.run(words)",
        "model.eval()",
        "import re; re.compile(text)",
    ],
)
def test_the_search_leaves_alone(line):
    assert offences(ast.parse(line)) == []


class MakesAFolder:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize("name", ["weights.pth", "last.pt"])
def test_a_file_that_would_run_something_does_not(tmp_path, name, is_zip):
    mark = tmp_path / "ran"
    content = {"format": 1, "state_dict": {"conv1.weight": torch.zeros(2)}, "more": MakesAFolder(mark)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError):
        read_state(tmp_path, Group(0, 1, torch.device("cpu"))) if name == "last.pt" else load_checkpoint(
            tmp_path / name
        )
    assert not mark.exists()
    if not is_zip:
        return
    torch.load(tmp_path / name, weights_only=False)  # the test can fail: a careless reader makes it
    assert mark.exists()


def test_pickles_of_weights_import_nothing(tmp_path):
    """Naming a module would be enough to run it; this one opens a browser."""
    sys.modules.pop("antigravity", None)
    (tmp_path / "x.pkl").write_bytes(pickle.PROTO + b"\x02cantigravity\nfly\n.")
    with pytest.raises(CheckpointError, match=r"it asks for antigravity\.fly"):
        load_checkpoint(tmp_path / "x.pkl")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["weights.pth", "last.pt"])
def test_a_file_that_unpacks_to_more_than_it_is_is_not_unpacked(tmp_path, name):
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(tmp_path / name, "w") as packed:
        for entry in whole.namelist():
            packed.writestr(entry, whole.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"its \d+ bytes claim to unpack to 4\d{6}"):
        read_state(tmp_path, Group(0, 1, torch.device("cpu"))) if name == "last.pt" else load_checkpoint(
            tmp_path / name
        )


def test_a_recipe_of_aliases_is_not_unpacked(tmp_path, capsys):
    """A few lines of these would be a thousand million strings."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 9)]
    (tmp_path / "recipe.yaml").write_text("\n".join([*lines, "data: *a8"]))
    assert main(["train", "--config", str(tmp_path / "recipe.yaml"), "--print-config"]) == 2
    words = capsys.readouterr().err
    assert "aliases, such as *a0 on line 2, must be written out" in words
    assert len(words) < 10_000
