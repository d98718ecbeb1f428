"""The names that users call, and what importing them costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nonlocalnn as nl

PUBLIC = [
    "CheckpointError",
    "InsertionReport",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "NonLocalNd",
    "assert_trained",
    "capture_affinity",
    "convert_nonlocal_",
    "cost",
    "create_model",
    "examine",
    "functional",
    "fuse_",
    "inflate_",
    "insert_nonlocal_",
    "list_models",
    "load_checkpoint",
    "load_classifier",
    "nonlocal_blocks",
    "param_groups",
    "real_positions",
    "remove_nonlocal_",
    "save_checkpoint",
    "sites",
    "split_positions",
]


def test_public_names_are_a_promise():
    assert sorted(nl.__all__) == PUBLIC
    assert all(hasattr(nl, name) for name in PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    assert getattr(nl, name).__doc__.strip()


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_is_there_at_once_and_the_names_when_they_are_asked_for():
    code = (
        "import sys\n"
        "import nonlocalnn as nl\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(nl.__all__) <= set(dir(nl)) and nl.__version__\n"
        "assert not hasattr(nl, 'nonlocal_block') and 'torch' not in sys.modules\n"
        "from nonlocalnn import NonLocal2d\n"
        "assert 'NonLocal2d' in vars(nl) and 'cost' in vars(nl) and 'torch' in sys.modules\n"
        "print(NonLocal2d(4).in_channels)"
    )
    assert in_a_new_process(code) == "4"


@pytest.mark.parametrize(
    "words",
    [
        "import nonlocalnn as nl; nl.models.cost.cost; nl.data.load_dataset; nl.surgery.conversion",
        "from nonlocalnn import *; NonLocal3d, functional.non_local",
        "import nonlocalnn.blocks; import nonlocalnn as nl; nl.split_positions",
        "from nonlocalnn import functional; from nonlocalnn.functional import affinity",
        "import nonlocalnn.train; import nonlocalnn.data.video; import nonlocalnn.explorer",
        "from nonlocalnn import blocks, checkpoints; import nonlocalnn.insertion",
    ],
)
@pytest.mark.slow  # a new process each
def test_every_way_to_import_what_is_public(words):
    in_a_new_process(words)


def test_type_checkers_see_what_the_program_does():
    tree = ast.parse(Path(nl.__file__).read_text(encoding="utf-8"))
    (guarded,) = [each for each in tree.body if isinstance(each, ast.If)]
    seen = {
        alias.name: each.module.removeprefix("nonlocalnn").lstrip(".")
        for each in guarded.body
        for alias in each.names
    }
    assert seen.pop("functional") == ""
    assert seen == nl._HOMES
    assert {*nl._HOMES, "functional"} == set(nl.__all__)


def test_importing_needs_torch_and_safetensors_only():
    optional = ["torchvision", "sklearn", "PIL", "matplotlib", "jsonargparse", "tqdm", "yaml", "starlette"]
    code = (
        "import sys, torch, safetensors.torch\n"
        "before = set(sys.modules)\n"
        "import nonlocalnn, nonlocalnn.data, nonlocalnn.tasks.evaluation, nonlocalnn.tasks.answers\n"
        "import nonlocalnn.explorer\n"
        "import nonlocalnn.train, nonlocalnn.cli\n"
        f"print([name for name in {optional} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
