"""Weights in several files, and the index that names them."""

import json

import pytest
import torch
from safetensors.torch import save_file
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
