"""What is said where a file does not fit: several networks in it, and blocks that it has none of."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nonlocalnn as nl
from nonlocalnn.checkpoints import import_checkpoint


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def two(first, second):
    torch.manual_seed(0)
    models = {first: network(), second: network()}
    state = {
        f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()
    }
    return models, state


@pytest.mark.parametrize(
    ("first", "second"), [("student", "teacher"), ("ema_model", "model"), ("a.k", "a.q")]
)
@pytest.mark.parametrize("kind", ["lightning", "plain", "safetensors"])
def test_two_networks(tmp_path, kind, first, second):
    models, state = two(first, second)
    if kind == "safetensors":
        save_file(state, tmp_path / "a.ckpt")
    else:
        torch.save({"state_dict": state} if kind == "lightning" else state, tmp_path / "a.ckpt")
    says = f"unexpected keys: .*it holds such networks under '{first}', '{second}': give entry='{first}', or"
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(tmp_path / "a.ckpt", network())
    for name in (first, second):
        found = nl.load_checkpoint(tmp_path / "a.ckpt", network(), entry=name)
        assert torch.equal(found[0].weight, models[name][0].weight)
    with pytest.raises(ValueError, match="has no entr"):
        nl.load_checkpoint(tmp_path / "a.ckpt", network(), entry="stud")


def test_a_file_without_the_blocks_of_the_model(tmp_path):
    torch.save(nl.create_model("c2d_tiny").state_dict(), tmp_path / "a.pth")
    model = nl.create_model("nl2_c2d_tiny")
    says = (
        r"missing keys: layer2\.0\.nl.*; the file has no weights of these blocks: load it first, then insert"
    )
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(tmp_path / "a.pth", model)
    # The other way of the two that are said.
    found = import_checkpoint(tmp_path / "a.pth", model, allow_partial=True)
    assert "layer2.0.nl" in found.gaps[0]


def test_a_file_without_a_part_of_a_block(tmp_path):
    state = nl.create_model("nl2_c2d_tiny").state_dict()
    del state["layer2.0.nl.W_z.weight"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(nl.CheckpointError, match=r"missing keys: layer2\.0\.nl\.W_z\.weight$"):
        nl.load_checkpoint(tmp_path / "a.pth", nl.create_model("nl2_c2d_tiny"))
