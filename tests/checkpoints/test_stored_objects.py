"""What lies beside weights or in their place: functions of the system, unknown types, other containers."""

import argparse
import io
import subprocess
import timeit
import warnings

import numpy as np
import pytest
import torch
from saved_layers import layer, loaded
from torch import nn

import nonlocalnn as nl


class Asks:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("1",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", [subprocess.getoutput, timeit.timeit, io.open, io.open_code])
def test_functions_of_the_system_under_any_name(tmp_path, function, protocol):
    """Protocol 2 calls the first commands.getoutput, as Python 2 did."""
    content = {"more": Asks(function), "state_dict": layer().state_dict()}
    with pytest.raises(nl.CheckpointError, match=r"was not read: it asks for (subprocess|timeit|_?io)\."):
        loaded(content, tmp_path, pickle_protocol=protocol)


TYPES = [torch.float8_e4m3fnuz, torch.float8_e8m0fnu, torch.complex32]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rare_types(tmp_path, dtype):
    other = torch.ones(2).to(dtype)
    content = {"args": argparse.Namespace(), "scales": other, "state_dict": layer().state_dict()}
    assert torch.equal(loaded(content, tmp_path).weight, layer().weight)
    content["state_dict"]["bias"] = other
    says = (
        "plain tensors of real numbers; bias" if dtype.is_complex else "bias float8.*; dequantise them first"
    )
    with pytest.raises(nl.CheckpointError, match=says):
        loaded(content, tmp_path)


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3)))])
def test_arrays_of_protocol_5(tmp_path, array):
    content = {"weight": array.astype(np.float32, order="K"), "bias": np.ones(2, np.float32)}
    found = loaded(content, tmp_path, pickle_protocol=5)
    assert found.weight.tolist() == array.tolist()


@pytest.mark.filterwarnings("ignore:.*pickle_protocol")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_before_zip_of_any_protocol(tmp_path, protocol):
    settings = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": False}
    assert torch.equal(loaded(layer().state_dict(), tmp_path, **settings).weight, layer().weight)


@pytest.mark.parametrize("more", [{"message_hub": {}}, {"meta": {"mmengine_version": "0.10.4"}}])
def test_averages_of_mmengine_lie_under_state_dict(tmp_path, more):
    """Its EMAHook swaps the two before it saves."""
    content = {"state_dict": layer().state_dict(), "ema_state_dict": nn.Linear(3, 2).state_dict(), **more}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(loaded(content, tmp_path).weight, layer().weight)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            [layer().state_dict()],
            r"holds a list, not a state dict.*torch\.save\(model\.state_dict\(\), path\)",
        ),
        ((layer().state_dict(), {}), r"holds a tuple, .*: load it where you trust it, and torch\.save"),
        ({"state_dict": {}, "epoch": 3}, r"not tensors are state_dict \(empty\), epoch; save"),
    ],
    ids=["list", "tuple", "empty"],
)
def test_what_to_do_with_other_containers(tmp_path, content, says):
    with pytest.raises(nl.CheckpointError, match=says):
        loaded(content, tmp_path)


def test_a_prefix_with_its_dot(tmp_path):
    state = {f"{name}.{key}": value for name in "ab" for key, value in layer().state_dict().items()}
    for entry in ("b", "b."):
        assert torch.equal(loaded(state, tmp_path, entry).weight, layer().weight)
