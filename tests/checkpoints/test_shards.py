"""Weights in several files, and the index that names them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nonlocalnn as nl


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))


def sharded(folder, *, suffix="safetensors", stem="model", **changes):
    """Write a network in two files with an index, as Hugging Face does; return the network and the index."""
    torch.manual_seed(0)
    model = network()
    state, weight_map = model.state_dict(), {}
    for number in (0, 1):
        part = {key: value for key, value in state.items() if key.startswith(str(number))}
        name = f"{stem}-0000{number + 1}-of-00002.{suffix}"
        if suffix == "safetensors":
            save_file(part, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {**weight_map, **changes}}))
    return model, index


@pytest.mark.parametrize(("suffix", "stem"), [("safetensors", "model"), ("bin", "pytorch_model")])
def test_an_index_is_read(tmp_path, suffix, stem):
    model, index = sharded(tmp_path, suffix=suffix, stem=stem)
    again = nl.load_checkpoint(index, network())
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_one_shard(tmp_path):
    sharded(tmp_path)
    path = tmp_path / "model-00002-of-00002.safetensors"
    says = r"missing keys: 0.*it is shard 2 of 2: give the index .*, model\.safetensors\.index\.json$"
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(path, network())


def test_a_missing_shard(tmp_path):
    _, index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        nl.CheckpointError, match=r"an index of 2 shards, and beside it there is no 'model-00002-of-00002"
    ):
        nl.load_checkpoint(index, network())


@pytest.mark.parametrize(
    "name",
    [
        "../w.safetensors",
        "/etc/w.safetensors",
        "in/w.safetensors",
        "..",
        "",
        "a\\b",
        "c:w",
        "model.bin.index.json",
        "x" * 300,
        "\U0001d4b3" * 150,
    ],
)
def test_an_index_names_files_beside_it_only(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    _, index = sharded(folder, **{"0.weight": name})
    save_file({"0.weight": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(nl.CheckpointError, match="must name files of weights beside it; it names"):
        nl.load_checkpoint(index, network())


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 10_000, "\xff"]
)
def test_other_texts(tmp_path, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(nl.CheckpointError, match="is no index of shards"):
        nl.load_checkpoint(path, network())


def test_a_weight_that_is_not_where_the_index_says(tmp_path):
    _, index = sharded(tmp_path, **{"0.weight": "model-00002-of-00002.safetensors"})
    with pytest.raises(nl.CheckpointError, match=r"says that model-00002-of-00002.* holds 0\.weight, and"):
        nl.load_checkpoint(index, network())


def test_a_damaged_shard_is_named(tmp_path):
    _, index = sharded(tmp_path)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(nl.CheckpointError, match=r"model-00001-of-00002\.safetensors is damaged"):
        nl.load_checkpoint(index, network())


def test_weights_that_the_index_leaves_out_are_not_lost(tmp_path):
    _, index = sharded(tmp_path)
    content = json.loads(index.read_text())
    del content["weight_map"]["1.bias"]
    index.write_text(json.dumps(content))
    nl.load_checkpoint(index, network())


def entries(folder, suffix="bin"):
    """Write two shards whose names begin with `model.`, or as entries of a training; return the averages."""
    model, averages = network(), network()
    places = {}
    for number in (0, 1):
        name = f"{number}.{suffix}"
        own, mean = (
            {key: value for key, value in each.state_dict().items() if key.startswith(str(number))}
            for each in (model, averages)
        )
        torch.save({"model": own, "ema": mean}, folder / name)
        places |= dict.fromkeys(own, name)
    (folder / "a.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return model, averages


def test_the_entry_that_a_warning_names_is_taken(tmp_path):
    model, averages = entries(tmp_path)
    index = tmp_path / "a.bin.index.json"
    with pytest.warns(UserWarning, match="give entry='ema' for the averages"):
        assert torch.equal(nl.load_checkpoint(index, network())[1].bias, model[1].bias)
    again = nl.load_checkpoint(index, network(), entry="ema")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in averages.state_dict().items())


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_one_of_several_networks_in_shards(tmp_path, save):
    torch.manual_seed(0)
    student, teacher = network(), network()
    places = {}
    for name, model in (("student", student), ("teacher", teacher)):
        state = {f"{name}.{key}": value for key, value in model.state_dict().items()}
        save(state, tmp_path / name)
        places |= dict.fromkeys(state, name)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for entry in ("teacher", "teacher."):
        assert torch.equal(nl.load_checkpoint(index, network(), entry=entry)[0].weight, teacher[0].weight)
    with pytest.raises(nl.CheckpointError, match=r"without names that begin with 'zzz'|no entry 'zzz'"):
        nl.load_checkpoint(index, network(), entry="zzz")


def test_a_weight_in_two_shards(tmp_path):
    _, index = sharded(tmp_path)
    content = json.loads(index.read_text())
    del content["weight_map"]["1.bias"]
    index.write_text(json.dumps(content))
    first = tmp_path / "model-00001-of-00002.safetensors"
    save_file(load_file(first) | {"1.bias": torch.zeros(5)}, first)
    with pytest.raises(
        nl.CheckpointError, match=r"^1\.bias lies in model-00002-of-00002\.safetensors and in another shard"
    ):
        nl.load_checkpoint(index, network())


@pytest.mark.parametrize("place", [1, 2])
def test_of_a_weight_in_two_shards_that_of_the_index_counts(tmp_path, place):
    model, index = sharded(tmp_path, **{"1.bias": f"model-0000{place}-of-00002.safetensors"})
    first = tmp_path / "model-00001-of-00002.safetensors"
    save_file(load_file(first) | {"1.bias": torch.zeros(5)}, first)
    expected = torch.zeros(5) if place == 1 else model[1].bias
    assert torch.equal(nl.load_checkpoint(index, network())[1].bias, expected)


def test_an_index_that_names_a_weight_twice(tmp_path):
    _, index = sharded(tmp_path)
    index.write_text(index.read_text()[:-2] + ', "1.bias": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(nl.CheckpointError, match=r"or is damaged: it names 1\.bias twice"):
        nl.load_checkpoint(index, network())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version https://git-lfs.github.com/spec/v1", "it begins like a pointer of Git LFS"),
        ("<!DOCTYPE html>", "it begins like a web page"),
        ('{"weight_map": ', "or is damaged: "),
    ],
)
def test_what_was_saved_as_an_index(tmp_path, text, says):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(nl.CheckpointError, match=f"is no index of shards.*{says}"):
        nl.load_checkpoint(path, network())


def test_the_index_of_a_variant(tmp_path):
    model, index = sharded(tmp_path)
    index = index.rename(tmp_path / "model.safetensors.index.fp16.json")
    assert torch.equal(nl.load_checkpoint(index, network())[0].weight, model[0].weight)


def test_what_a_shard_lacks_is_sorted(tmp_path):
    _, index = sharded(tmp_path, **{f"z{number}": "model-00001-of-00002.safetensors" for number in range(6)})
    with pytest.raises(nl.CheckpointError, match="holds z0, z1, z2, z3, z4, z5, and it does not"):
        nl.load_checkpoint(index, network())
