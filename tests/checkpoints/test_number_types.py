"""Weights in other types than the network's: floating point is converted, and nothing else is."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nonlocalnn as nl

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHERS = (torch.int8, torch.uint8, torch.bool, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def saved(path, dtype):
    state = network().state_dict()
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_floating_point(tmp_path, name, dtype):
    model = network()
    model[1].num_batches_tracked.fill_(7)
    again = nl.load_checkpoint(saved(tmp_path / name, dtype), model)
    assert torch.equal(again[0].weight, network()[0].weight.to(dtype).float())
    assert again[1].num_batches_tracked == 0


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_whole_numbers_and_types_for_storing(tmp_path, name, dtype):
    model = network()
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(
        nl.CheckpointError, match=rf"whole numbers where .*0\.weight {kind}, .*; dequantise them first"
    ):
        nl.load_checkpoint(saved(tmp_path / name, dtype), model)
    assert torch.equal(model[0].weight, network()[0].weight)


def test_scales_beside_quantised_weights(tmp_path):
    state = network().state_dict() | {
        "0.weight": torch.ones(2, 3, dtype=torch.int8),
        "0.scale": torch.ones(1),
    }
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(nl.CheckpointError, match=r"quantised weights or whole numbers .*: 0\.weight int8;"):
        nl.load_checkpoint(tmp_path / "a.pth", network())


def test_without_a_model(tmp_path):
    model = nl.create_model("c1d_tiny")
    state = {key: value.to(torch.int8) for key, value in model.state_dict().items()}
    header = {"format": "nonlocalnn", "config": json.dumps(model.config)}
    save_file(state, tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(nl.CheckpointError, match="quantised weights or whole numbers"):
        nl.load_checkpoint(tmp_path / "a.safetensors")


def test_an_image_network_for_a_video_network(tmp_path):
    image = nl.create_model("resnet_tiny")
    state = {key: value.to(torch.int8) for key, value in image.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(nl.CheckpointError, match="quantised weights or whole numbers"):
        nl.load_checkpoint(tmp_path / "a.pth", nl.create_model("c2d_tiny"))


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"epoch": np.int64(3), "state_dict": state}]
)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before zip"])
def test_arrays_in_a_file_of_torch_save(tmp_path, wrap, is_zip):
    state = {key: value.numpy() for key, value in network().state_dict().items()}
    state["0.weight"] = np.asfortranarray(state["0.weight"])
    torch.save(wrap(state), tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    model = network()
    nn.init.zeros_(model[0].weight)
    nl.load_checkpoint(tmp_path / "a.pth", model)
    assert torch.equal(model[0].weight, network()[0].weight)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([{}, None], dtype=object),
        np.array([1.0], dtype=">f4"),
        np.array([(1, 2.0)], dtype="i4,f4"),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_anything_else_are_left_out(tmp_path, array):
    content = {"more": [array, {"a": array}], "state_dict": network().state_dict()}
    torch.save(content, tmp_path / "a.pth")
    nl.load_checkpoint(tmp_path / "a.pth", network())
    torch.save({**network().state_dict(), "0.weight": array}, tmp_path / "a.pth")
    with pytest.raises(nl.CheckpointError, match=r"not tensors are 0\.weight"):
        nl.load_checkpoint(tmp_path / "a.pth", network())


class Indexed(nn.Module):
    def __init__(self, dtype=torch.int64):
        super().__init__()
        self.register_buffer("index", torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (torch.tensor([1, 2, 300]).bfloat16(), torch.int64),
        (torch.tensor([1.0, 2.0, 2048.0]).half(), torch.int64),
        (torch.tensor([1.0, 2.0, 2.5]), torch.int64),
        (torch.tensor([1.0, 2.0, torch.nan]), torch.int64),
        (torch.tensor([1, 2, 5000]), torch.int8),
        (torch.tensor([1, 2, 255], dtype=torch.uint8), torch.int8),
        (torch.tensor([0, 1, 2]), torch.bool),
        (torch.ones(3).to(torch.float8_e4m3fn), torch.int64),
    ],
    ids=lambda each: str(each.dtype if isinstance(each, torch.Tensor) else each),
)
def test_whole_numbers_that_would_change_are_refused(tmp_path, values, dtype):
    torch.save({"index": values}, tmp_path / "a.pth")
    model = Indexed(dtype)
    kinds = " for ".join(str(each).removeprefix("torch.") for each in (values.dtype, dtype))
    with pytest.raises(nl.CheckpointError, match=f"where it has whole numbers: index {kinds};"):
        nl.load_checkpoint(tmp_path / "a.pth", model)
    assert not model.index.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8, torch.uint8, torch.int64])
def test_whole_numbers_of_any_type_that_holds_them(tmp_path, dtype):
    values = torch.tensor([0, 1, 100])
    torch.save({"index": values.to(dtype)}, tmp_path / "a.pth")
    assert torch.equal(nl.load_checkpoint(tmp_path / "a.pth", Indexed()).index, values)
    torch.save({"index": torch.tensor([0, 1, 1]).to(dtype)}, tmp_path / "a.pth")
    found = nl.load_checkpoint(tmp_path / "a.pth", Indexed(torch.bool)).index
    assert found.tolist() == [False, True, True]


def test_counters_may_be_rounded(tmp_path):
    state = network().state_dict() | {"1.num_batches_tracked": torch.tensor(1e4).bfloat16()}
    torch.save(state, tmp_path / "a.pth")
    nl.load_checkpoint(tmp_path / "a.pth", network())


@pytest.mark.parametrize(
    ("dtype", "of_model", "largest"),
    [
        (torch.float32, torch.float16, 65504.0),
        (torch.float64, torch.float32, torch.finfo(torch.float32).max),
        (torch.float32, torch.float8_e4m3fn, 448.0),
    ],
    ids=str,
)
def test_numbers_that_are_too_large_for_the_network(tmp_path, dtype, of_model, largest):
    model = Indexed(of_model)
    for value, fits in (
        (largest, True),
        (-largest, True),
        (torch.inf, True),
        (1.1 * largest, False),
        (-1.1 * largest, False),
    ):
        torch.save({"index": torch.tensor([0.0, torch.nan, value], dtype=dtype)}, tmp_path / "a.pth")
        if fits:
            nl.load_checkpoint(tmp_path / "a.pth", model)
        else:
            kinds = " for ".join(str(each).removeprefix("torch.") for each in (dtype, of_model))
            with pytest.raises(
                nl.CheckpointError, match=f"too large for the network's type, .*: index {kinds};"
            ):
                nl.load_checkpoint(tmp_path / "a.pth", model)
