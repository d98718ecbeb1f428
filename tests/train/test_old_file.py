"""Runs that began when a state was one file go on."""

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from test_train_resuming import ALONE
from tiny_task import TinyTask, assert_identical, final_state, saved_tensors, tiny_recipe

from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.train import train
from nonlocalnn.train.optimizer import build_optimizer
from nonlocalnn.train.state.resuming import read_state, state_names
from tolerances import NETWORK, assert_near

# Written by the code of that time, at step 8 of 18 of the recipe of test_the_file_itself.
WRITTEN_THEN = Path(__file__).with_name("old_state.pt")


def write_old(folder, step):
    """Write a state as it was written then, over the one before it."""
    newest = folder / "last.pt"
    if newest.exists():
        newest.replace(folder / "last.previous.pt")
    payload = torch.load(WRITTEN_THEN, weights_only=True)
    payload["position"]["step"] = step
    torch.save(payload, newest)


def make_old(recipe, **task):
    """Replace the states of a run by those which would have been written then.

    Args:
        recipe: The run's recipe.
        task: Arguments of its TinyTask.
    """
    output, model = recipe.output, TinyTask(**task).model(None)
    names = {each: name for name, each in model.named_parameters()}
    groups = build_optimizer(recipe, model).param_groups
    order = [names[each] for group in groups for each in group["params"]]
    for name in ("last.previous", "last"):
        if not (output / name).exists():
            continue
        manifest = json.loads((output / name / "manifest.json").read_text())
        parts = {"model": {}, "optimizer": {}}
        for key, value in saved_tensors(output, name).items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        kept = {number: {} for number in range(len(order))}
        for key, value in parts["optimizer"].items():
            owner, _, field = key.rpartition(".")
            kept[order.index(owner)][field] = value
        del manifest["files"]
        manifest["learner"] |= {"model": parts["model"], "optimizer": {"state": kept}}
        torch.save(manifest, output / f"{name}.pt")
        shutil.rmtree(output / name)


def flip_a_weight(path):
    data = bytearray(path.read_bytes())
    weight = torch.load(WRITTEN_THEN, weights_only=True)["learner"]["model"]["fc.weight"]
    data[data.index(weight.numpy().tobytes()[:40])] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [flip_a_weight, cut, empty])


def test_the_file_itself(tmp_path):
    # The run of that time kept the running statistics, and goes on so without being told.
    recipe = tiny_recipe(tmp_path / "old", optimizer="adamw", clip_norm=0.5, norm_batches=None)
    whole = tiny_recipe(tmp_path / "whole", optimizer="adamw", clip_norm=0.5)
    train(whole, task=TinyTask())
    recipe.output.mkdir()
    shutil.copy(WRITTEN_THEN, recipe.output / "last.pt")
    shutil.copy(whole.output / "best.safetensors", recipe.output)
    assert train(recipe, task=TinyTask(), resume=True).steps == 18
    found, expected = saved_tensors(recipe.output), saved_tensors(whole.output)
    assert found.keys() == expected.keys()
    # Before a batch norm a bias has no gradient but rounding, another on each processor, of which AdamW makes
    # steps as long as any; the running mean follows it.
    common = [name for name in found if "conv.bias" not in name and name != "model.bn.running_mean"]
    assert_near(*({name: each[name] for name in common} for each in (found, expected)), sums=NETWORK)
    assert {path.name for path in recipe.output.iterdir()} == {path.name for path in whole.output.iterdir()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_goes_on_bit_for_bit(tmp_path, optimizer):
    changes = {"optimizer": optimizer, "weight_decay": 0.1, "decay_norms": False}
    whole, parts = (tiny_recipe(tmp_path / name, **changes) for name in "ab")
    train(whole, task=TinyTask())
    train(parts, task=TinyTask(stop_at=8))
    make_old(parts)
    assert not (parts.output / "last").exists()
    train(parts, task=TinyTask(), resume=True)
    assert_identical(final_state(parts.output), final_state(whole.output))


@pytest.mark.slow
def test_goes_on_in_shards(ranks, tmp_path):
    smooth = {"plain": True, "double": True}
    whole, parts = (tiny_recipe(tmp_path / name) for name in "ab")
    train(whole, task=TinyTask(**smooth))
    train(parts, task=TinyTask(**smooth, stop_at=8))
    make_old(parts, **smooth)
    answer, other = ranks(dataclasses.replace(parts, parallel="fsdp"), smooth, smooth, resume=True)
    assert answer.pop("warnings")[0].startswith("the run was on 1 processes (ddp) and goes on with 2 (fsdp)")
    assert [answer, other] == [{"signal": None, "steps": 18}] * 2
    assert_near(saved_tensors(parts.output), saved_tensors(whole.output), sums=NETWORK)


def test_the_file_stays_until_two_folders_are_there(tmp_path):
    recipe = tiny_recipe(tmp_path, checkpoint_every=1)
    train(recipe, task=TinyTask(stop_at=8))
    make_old(recipe)
    train(recipe, task=TinyTask(stop_at=1), resume=True)
    assert {path.name for path in tmp_path.glob("last*")} == {
        *("last.pt", "last.previous.pt", "last", "last.safetensors")
    }
    train(recipe, task=TinyTask(stop_at=1), resume=True)
    assert {path.name for path in tmp_path.glob("last*")} == {"last", "last.previous", "last.safetensors"}


def test_a_damaged_folder_gives_way_to_the_file_before(tmp_path):
    whole, parts = (tiny_recipe(tmp_path / name, checkpoint_every=1) for name in "ab")
    train(whole, task=TinyTask())
    train(parts, task=TinyTask(stop_at=8))
    make_old(parts)
    train(parts, task=TinyTask(stop_at=1), resume=True)
    (parts.output / "last" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=r"last is not whole: .* going on from the older .*last\.pt"):
        train(parts, task=TinyTask(), resume=True)
    assert_identical(final_state(parts.output), final_state(whole.output))


@DAMAGES
def test_falls_back_to_the_state_before(tmp_path, damage):
    write_old(tmp_path, 3)
    write_old(tmp_path, 4)
    damage(tmp_path / "last.pt")
    with pytest.warns(UserWarning, match=r"last\.pt is damaged: .* older .*last\.previous\.pt"):
        state = read_state(tmp_path, ALONE)
    assert state.position.step == 3
    assert state.path == tmp_path / "last.previous.pt"


def test_falls_back_where_the_newest_is_missing(tmp_path):
    write_old(tmp_path, 3)
    write_old(tmp_path, 4)
    (tmp_path / "last.pt").unlink()
    assert state_names(tmp_path)
    with pytest.warns(UserWarning, match=r"last\.pt is missing"):
        assert read_state(tmp_path, ALONE).position.step == 3


@DAMAGES
def test_refuses_when_nothing_is_whole(tmp_path, damage):
    write_old(tmp_path, 3)
    damage(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        read_state(tmp_path, ALONE)


def test_refuses_another_format(tmp_path):
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not a training state of format 1"):
        read_state(tmp_path, ALONE)


def test_a_state_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/data/0", b"\0" * 2_000_000)
    with pytest.raises(CheckpointError, match=r"last\.pt .* claim to unpack to 2000004"):
        read_state(tmp_path, ALONE)
