"""Names of modules before 0.1.0: programs and pickles of that time find what lies elsewhere now."""

import importlib
import re
import subprocess
import sys

import pytest
import torch

import nonlocalnn as nl
from nonlocalnn import _moved
from tolerances import assert_same


@pytest.mark.parametrize("old", _moved._MOVED)
def test_an_old_name_gives_the_module_of_today(old):
    new = importlib.import_module(f"nonlocalnn.{_moved._MOVED[old]}")
    assert importlib.import_module(f"nonlocalnn.{old}") is new
    assert new.__spec__.name == new.__name__ == f"nonlocalnn.{_moved._MOVED[old]}"


def test_a_module_below_one_that_moved():
    old, new = (
        importlib.import_module(f"nonlocalnn.{name}.layers") for name in ("conversion", "surgery.conversion")
    )
    assert old is new


def test_what_was_never_there_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nonlocalnn.insertions")


def test_a_model_that_was_pickled_under_an_old_name_loads(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 1))
    nl.insert_nonlocal_(model, after=["0"], example_input=torch.randn(1, 3, 5, 5))
    for block in nl.nonlocal_blocks(model).values():
        torch.nn.init.normal_(block.W_z.weight)
    torch.save(model, tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    # As it was written before insertion moved; the archive does not compress, and checks no sum on loading.
    torch.save(model, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pt").read_bytes()
    assert data.count(b"nonlocalnn.surgery.insertion\n") == 1
    (tmp_path / "old.pt").write_bytes(
        data.replace(b"nonlocalnn.surgery.insertion\n", b"nonlocalnn.insertion\n")
    )
    x = torch.randn(2, 3, 5, 5)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, nonlocalnn; folder = sys.argv[1]\n"
        "model = torch.load(folder + '/old.pt', weights_only=False)\n"
        "torch.save(model(torch.load(folder + '/x.pt')).detach(), folder + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert_same(torch.load(tmp_path / "y.pt"), model(x).detach())


@pytest.mark.parametrize(
    ("module", "name", "successor"),
    [
        ("predict", "predict", "tasks.answers.answer_files"),
        ("video_prediction", "predict_videos", "tasks.answers.answer_files"),
        ("video_evaluation", "evaluate_videos", "tasks.evaluation.evaluate"),
        ("data.shard_writing", "write_shards", "data.write_archives"),
        ("data.shards", "load_shards", "data.archives.images.load_archives"),
        ("train.video_task", "VideoTask", "train.ClassificationTask"),
        ("train.checkpoint", "read_state", "train.state.resuming.read_state"),
    ],
)
def test_a_function_that_has_gone_names_its_successor(module, name, successor):
    with pytest.raises(ImportError, match=rf"use nonlocalnn\.{re.escape(successor)} in its place"):
        exec(f"from nonlocalnn.{module} import {name}")


def test_every_successor_is_there():
    for successor in set(_moved._RENAMED.values()):
        module, _, name = successor.rpartition(".")
        assert hasattr(importlib.import_module(f"nonlocalnn.{module}"), name), successor


def test_a_name_that_never_was_is_an_attribute_error():
    old = importlib.import_module("nonlocalnn.predict")
    assert not hasattr(old, "predictions")
    with pytest.raises(ImportError, match="cannot import name 'predictions'"):
        exec("from nonlocalnn.predict import predictions")
