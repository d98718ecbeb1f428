"""The names that users call, and what importing them costs."""

import subprocess
import sys

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
    "functional",
    "fuse_",
    "inflate_",
    "insert_nonlocal_",
    "list_models",
    "load_checkpoint",
    "load_classifier",
    "nonlocal_blocks",
    "param_groups",
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
