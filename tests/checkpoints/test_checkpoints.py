"""Our own checkpoints, and files that must not be trusted."""

import math
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nonlocalnn as nl
from helpers import no_larger_files_than, randomize_
from nonlocalnn.checkpoints import export_checkpoint, read_metadata


@pytest.fixture
def model():
    return randomize_(nl.create_model("nl_digits", instantiation="concatenation", num_classes=7)).eval()


def test_round_trip_builds_the_same_model(tmp_path, model):
    path = tmp_path / "deep" / "model.safetensors"
    nl.save_checkpoint(model, path, metadata={"classes": list("abcdefg")})
    loaded = nl.load_checkpoint(path).eval()
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded(x), model(x))
    assert loaded.config == model.config
    assert read_metadata(path) == {"classes": list("abcdefg")}
    assert os.listdir(path.parent) == ["model.safetensors"]


def test_any_module_is_saved_and_loaded_into(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    nl.save_checkpoint(module, tmp_path / "m.safetensors")
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert nl.load_checkpoint(tmp_path / "m.safetensors", other) is other
    assert torch.equal(other[0].weight, module[0].weight)
    with pytest.raises(nl.CheckpointError, match="does not say what builds its model"):
        nl.load_checkpoint(tmp_path / "m.safetensors")


def test_tied_weights_are_saved(tmp_path):
    first = nn.Linear(3, 3)
    module = nn.Sequential(first, first)
    nl.save_checkpoint(module, tmp_path / "m.safetensors")
    second = nn.Linear(3, 3)
    nl.load_checkpoint(tmp_path / "m.safetensors", nn.Sequential(second, second))
    assert torch.equal(first.weight, second.weight)


def test_a_failed_write_keeps_the_old_file(tmp_path, model, monkeypatch):
    path = tmp_path / "model.safetensors"
    nl.save_checkpoint(model, path)
    before = path.read_bytes()

    def fails(*arguments, **settings):
        raise OSError("no space left on device")

    monkeypatch.setattr("nonlocalnn.checkpoints.native.save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        nl.save_checkpoint(model, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_the_plain_state_dict_of_our_model(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "state.pth")
    fresh = nl.create_model("nl_digits", instantiation="concatenation", num_classes=7).eval()
    nl.load_checkpoint(tmp_path / "state.pth", fresh)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(fresh(x), model(x))


def test_a_checkpoint_of_another_network_changes_nothing(tmp_path, model):
    nl.save_checkpoint(nl.create_model("nl_digits", blocks=False, num_classes=7), tmp_path / "m.safetensors")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        nl.CheckpointError, match=r"does not fit DigitsNetwork: missing keys: nl_1.w_f, .* more"
    ):
        nl.load_checkpoint(tmp_path / "m.safetensors", model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Evil:
    """What a malicious file would hold: unpickling it calls a function."""

    def __reduce__(self):
        return (os.system, ("touch " + os.environ["EVIL_MARK"],))


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_never_runs_code(tmp_path, monkeypatch, write):
    monkeypatch.setenv("EVIL_MARK", str(tmp_path / "ran"))
    write({"conv_1.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(nl.CheckpointError, match=r"evil.pth holds more than tensors, or is damaged"):
        nl.load_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_cut_file_is_one_clear_error(tmp_path, model, kind):
    path = tmp_path / f"model.{kind}"
    if kind == "pth":
        torch.save(model.state_dict(), path)
    else:
        nl.save_checkpoint(model, path)
    cut(path)
    with pytest.raises(nl.CheckpointError, match="damaged"):
        nl.load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds an empty dict, not a state dict"),
        ({"a": torch.zeros(1), "b._extra_state": None}, r"not tensors are b\._extra_state; leave these out"),
        ({"a": torch.zeros(1), "epoch": 3}, "not a plain state dict: not tensors are epoch"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(nl.CheckpointError, match=message):
        nl.load_checkpoint(tmp_path / "odd.pth")


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        nl.load_checkpoint(tmp_path / "absent.safetensors")
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n" * 9):
        (tmp_path / "odd").write_bytes(content)
        with pytest.raises(nl.CheckpointError, match="odd"):
            nl.load_checkpoint(tmp_path / "odd")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "nonlocalnn", "config": "{"}, "damaged header: config is not JSON"),
        ({"format": "nonlocalnn", "config": "[1]"}, "damaged header: config is a list"),
        (
            {"format": "nonlocalnn", "config": '{"name": "nl_digits"}'},
            "it lacks num_classes",
        ),
        (
            {"format": "nonlocalnn", "config": '{"name": "x", "num_classes": 3, "overrides": {}}'},
            "builds no model: model must be one of",
        ),
        ({"format": "pt"}, "does not say what builds its model"),
    ],
)
def test_odd_headers(tmp_path, header, message):
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata=header)
    with pytest.raises(nl.CheckpointError, match=message):
        nl.load_checkpoint(tmp_path / "odd.safetensors")


def test_metadata_must_be_json(tmp_path, model):
    with pytest.raises(ValueError, match="metadata must be JSON-ready"):
        nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata={"a": object()})
    with pytest.raises(ValueError, match=r"got '0.5', a float32: give Python's own numbers.*\.item\(\)"):
        nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata={"a": [np.float32(0.5)]})
    assert not list(tmp_path.iterdir())


def test_metadata_of_other_files_is_empty(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert read_metadata(tmp_path / "a.pth") == read_metadata(tmp_path / "a.safetensors") == {}


@pytest.mark.parametrize("metadata", [["a"], "a", 3])
def test_metadata_are_facts_by_name(tmp_path, model, metadata):
    with pytest.raises(ValueError, match="metadata must be a dictionary of facts; got a "):
        nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata=metadata)


def test_metadata_that_hold_themselves(tmp_path, model):
    metadata = {}
    metadata["again"] = metadata
    with pytest.raises(ValueError, match="metadata must be JSON-ready: Circular"):
        nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    "model", ["resnet18", nn.Linear, {"a": torch.zeros(1)}], ids=["name", "class", "state"]
)
def test_what_is_no_model(tmp_path, model):
    path = tmp_path / "m.safetensors"
    nl.save_checkpoint(nn.Linear(2, 2), path)
    for use in (
        lambda: nl.load_checkpoint(path, model),
        lambda: nl.save_checkpoint(model, path),
        lambda: export_checkpoint(model, path, to="slowfast"),
    ):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got a "):
            use()
    nl.load_checkpoint(path, nn.Linear(2, 2))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tied_weights_that_differ_in_a_file(tmp_path, dtype):
    state = {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2, dtype=dtype)}
    torch.save(state, tmp_path / "m.pth")
    assert nl.load_checkpoint(tmp_path / "m.pth", Tied()).a.weight.eq(1).all()
    state["a.weight"][1], state["b.weight"][1] = math.nan, math.nan
    torch.save(state, tmp_path / "m.pth")
    assert nl.load_checkpoint(tmp_path / "m.pth", Tied()).a.weight[1].isnan().all()
    state["b.weight"][0, 1] = 2
    torch.save(state, tmp_path / "m.pth")
    model = Tied()
    before = model.a.weight.clone()
    with pytest.raises(
        nl.CheckpointError, match=r"^a\.weight and b\.weight are one tensor of the model, and differ"
    ):
        nl.load_checkpoint(tmp_path / "m.pth", model)
    assert torch.equal(model.a.weight, before)


def _expanded():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].bias = nn.Parameter(torch.zeros(1).expand(2))
    return model


def _for_inference():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.inference_mode():
        model[1].bias = nn.Parameter(torch.zeros(2))
    return model


@pytest.mark.parametrize("make", [_expanded, _for_inference])
def test_a_model_that_takes_a_part_of_the_weights_is_left_as_it_is(tmp_path, make):
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({key: torch.ones(value.shape) for key, value in before.items()}, tmp_path / "m.pth")
    with pytest.raises(nl.CheckpointError, match=r"^1\.bias of the model cannot be written to: ") as raised:
        nl.load_checkpoint(tmp_path / "m.pth", model)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_full_disk_is_told_in_the_words_of_the_system(tmp_path):
    path = tmp_path / "m.pyth"
    path.write_bytes(b"before")
    with no_larger_files_than(20_000), pytest.raises(OSError, match="File too large"):
        export_checkpoint(nl.create_model("i3d_r50_8x8", width=4), path, to="slowfast")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
