"""Checkpoints of trainings: the weights among the entries are found, and objects beside them are not run."""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from saved_layers import layer, loaded
from torch import nn

import nonlocalnn as nl
from nonlocalnn.checkpoints import entries, restricted_pickle

OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


def assert_loads(content, tmp_path, **settings):
    found, expected = loaded(content, tmp_path, **settings), layer()
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)


NAMES = (
    *("model", "model_state", "model_state_dict", "state_dict", "net", "network", "module", "weights"),
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict"),
)


@pytest.mark.parametrize("name", NAMES)
def test_entries(tmp_path, name):
    assert_loads({name: layer().state_dict(), "epoch": 3, "optimizer": OPTIMIZER}, tmp_path)
    assert_loads({name: {"module": layer().state_dict(), "updates": 7}}, tmp_path)


@pytest.mark.parametrize("averages", ["ema", "model_ema", "state_dict_ema"])
def test_averages_beside_weights_are_said(tmp_path, averages):
    content = {"model": layer().state_dict(), averages: nn.Linear(3, 2).state_dict(), "args": {"net": "x"}}
    with pytest.warns(UserWarning, match=f"'model' is taken; give entry='{averages}' for the averages"):
        assert_loads(content, tmp_path)
    content = {"model": nn.Linear(3, 2).state_dict(), averages: layer().state_dict()}
    assert_loads(content, tmp_path, entry=averages)


@pytest.mark.parametrize(
    ("content", "entry", "says"),
    [
        (
            {"model": layer().state_dict(), "net": layer().state_dict()},
            None,
            "under 'model', 'net': give entry='model', or another of them",
        ),
        (
            {"a": layer().state_dict(), "b": layer().state_dict()},
            None,
            "tensors lie under a, b, give one of these",
        ),
        ({"model": layer().state_dict()}, "modl", r"has no entry 'modl'; tensors lie under 'model'$"),
        ({"epoch": 3}, "model", r"has no entry 'model'$"),
        ({"model": "resnet"}, None, "not tensors are model; save the model's"),
    ],
)
def test_what_cannot_be_chosen(tmp_path, content, entry, says):
    with pytest.raises(nl.CheckpointError, match=says):
        loaded(content, tmp_path, entry)


def test_an_entry_of_a_file_without_any(tmp_path):
    nl.save_checkpoint(layer(), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="has no entries: leave entry out"):
        nl.load_checkpoint(tmp_path / "m.safetensors", layer(), entry="ema")


class History:
    def __init__(self):
        self.values = np.arange(3.0)


class Phase(enum.Enum):
    TRAIN = 1


class Settings(dict):
    pass


class Items(list):
    pass


OBJECTS = {
    "namespace": lambda: argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("/x")),
    "history": History,
    "path": lambda: pathlib.Path("/x"),
    "number": lambda: np.float64(3),
    "array of texts": lambda: np.array(["a", "bc"]),
    "array of objects": lambda: np.array([{}, None], dtype=object),
    "enum": lambda: {Phase.TRAIN: 1},
    "counter": lambda: collections.Counter("aab"),
    "defaultdict": lambda: collections.defaultdict(list, {1: [2]}),
    "deque": lambda: collections.deque([1, 2]),
    "time": datetime.datetime.now,
    "function": lambda: layer,
    "class": lambda: History,
    "partial": lambda: functools.partial(layer, 1),
    "settings": lambda: Settings(a=1),
    "items": lambda: Items([1, 2]),
    "sets": lambda: [{1, 2}, frozenset([3])],
    "device": lambda: [torch.device("cpu"), torch.float16, torch.Size([2])],
    "optimizer": lambda: torch.optim.SGD(layer().parameters(), lr=0.1),
    "module": lambda: nn.Conv2d(2, 2, 1),
    "method": lambda: layer().forward,
    "random numbers": lambda: np.random.default_rng(0),
}
FORMATS = {
    "zip": {},
    "protocol 4": {"pickle_protocol": 4},
    "before zip": {"_use_new_zipfile_serialization": False},
}


@pytest.mark.filterwarnings("ignore:.*pickle_protocol")
@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_objects_are_left_out(tmp_path, monkeypatch, make, settings):
    gone = types.ModuleType("gone")
    monkeypatch.setitem(sys.modules, "gone", gone)
    for each in (History, Phase, Settings, Items, layer):
        monkeypatch.setattr(each, "__module__", "gone")
        monkeypatch.setattr(gone, each.__name__, each, raising=False)
    torch.save({"meta": make(), "state_dict": layer().state_dict()}, tmp_path / "m.pth", **settings)
    monkeypatch.delitem(sys.modules, "gone")
    found = nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2))
    assert torch.equal(found.weight, layer().weight)
    assert "gone" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [("antigravity", "fly"), ("posix", "getcwd"), ("builtins", "eval"), ("os.path", "join")],
)
@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
def test_what_a_file_names_is_not_imported(tmp_path, monkeypatch, module, name, settings):
    sys.modules.pop("antigravity", None)
    stand_in = types.ModuleType("stand_in_of_a_name")
    kind = type("call_me_by_name", (), {"__module__": "stand_in_of_a_name"})
    stand_in.call_me_by_name = kind
    monkeypatch.setitem(sys.modules, "stand_in_of_a_name", stand_in)
    torch.save({"more": kind(), "state_dict": layer().state_dict()}, tmp_path / "m.pth", **settings)
    reading = {}

    def find(self, *asked):
        found = original(self, *((module, name) if asked[0] == "stand_in_of_a_name" else asked))
        reading[asked] = found
        return found

    original = restricted_pickle._WithPlaceholders.find_class
    monkeypatch.setattr(restricted_pickle._WithPlaceholders, "find_class", find)
    if module == "antigravity":
        assert torch.equal(nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2)).weight, layer().weight)
        assert restricted_pickle.Placeholder in reading.values()
    else:
        with pytest.raises(nl.CheckpointError, match=rf"was not read: it asks for {module}\.{name}$"):
            nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
def test_tensors_of_all_kinds_beside_an_object(tmp_path, settings):
    base = torch.arange(12.0).view(3, 4)
    state = {
        "a": base.t()[1:],
        "b": base[1, :3],
        "c": nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "d": torch.tensor(7),
        "e": torch.zeros(0, 3),
        "f": torch.tensor([True, False]),
        "g": torch.ones(2).to(torch.float8_e4m3fn),
        "h": torch.ones(2, dtype=torch.uint16),
    }
    state["c"].note = "an attribute"
    torch.save({"meta": History(), "state_dict": state}, tmp_path / "m.pth", **settings)
    net = nn.Module()
    for name, value in state.items():
        net.register_buffer(name, torch.zeros_like(value.detach()))
    nl.load_checkpoint(tmp_path / "m.pth", net)
    assert all(torch.equal(getattr(net, name).float(), value.float()) for name, value in state.items())


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: {"model": each, "ema": None}])
def test_a_model_that_was_saved_whole(tmp_path, wrap, settings):
    net = nn.Sequential(layer(), nn.BatchNorm1d(2))
    net.register_buffer("table", torch.arange(3), persistent=False)
    torch.save(wrap(nn.DataParallel(net)), tmp_path / "m.pth", **settings)
    again = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    nl.load_checkpoint(tmp_path / "m.pth", again)
    assert torch.equal(again[0].weight, layer().weight)


def test_a_module_without_one_of_its_parts(tmp_path):
    net = nn.Sequential(nn.Flatten(), layer())
    net[0] = None
    torch.save(net, tmp_path / "m.pth")
    again = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    nl.load_checkpoint(tmp_path / "m.pth", again)
    assert torch.equal(again[1].weight, layer().weight)


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.add_module(name, layer())


def test_how_large_a_module_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "_LONGEST_NAME", len("abc."))
    for name in ("abc", "abcd"):
        torch.save(Named(name), tmp_path / f"{name}.pth")
    again = nl.load_checkpoint(tmp_path / "abc.pth", Named("abc"))
    assert torch.equal(again.abc.weight, layer().weight)
    with pytest.raises(nl.CheckpointError, match="holds a module of more than"):
        nl.load_checkpoint(tmp_path / "abcd.pth", Named("abcd"))
    # Three modules, one of them with five tensors.
    net = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())
    torch.save(net, tmp_path / "m.pth")
    monkeypatch.setattr(entries, "_MOST_PARTS", 5)
    nl.load_checkpoint(tmp_path / "m.pth", net)
    monkeypatch.setattr(entries, "_MOST_PARTS", 4)
    with pytest.raises(nl.CheckpointError, match="holds a module of more than 4 parts"):
        nl.load_checkpoint(tmp_path / "m.pth", net)


@pytest.mark.parametrize("settings", [FORMATS["zip"], FORMATS["before zip"]], ids=["zip", "before zip"])
def test_every_cut_of_a_file_with_objects_is_refused(tmp_path, settings):
    torch.save({"meta": History(), "state_dict": layer().state_dict()}, tmp_path / "whole.pth", **settings)
    data = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(data) - 1, 7):
        (tmp_path / "m.pth").write_bytes(data[:length])
        with pytest.raises(nl.CheckpointError):
            nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2))


def test_what_a_file_before_zip_claims_is_not_reserved(tmp_path):
    torch.save(
        {"meta": History(), "state_dict": {"weight": torch.zeros(2**16 + 1)}},
        tmp_path / "m.pth",
        _use_new_zipfile_serialization=False,
    )
    data = (tmp_path / "m.pth").read_bytes()
    number = b"J" + (2**16 + 1).to_bytes(4, "little")
    assert data.count(number) >= 1
    (tmp_path / "m.pth").write_bytes(data.replace(number, b"J\xff\xff\xff\x7f"))
    with pytest.raises(nl.CheckpointError, match="its tensors have more bytes than it has"):
        nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2))


def nested_in_themselves():
    content = {}
    content |= dict.fromkeys(NAMES, content) | {f"k{number}": content for number in range(300)}
    return content


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self._modules["itself"] = self


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nested_in_themselves, "give entry=|not a plain state dict"),
        (lambda: {"model": Holds()}, "holds a module of more than 100000 parts"),
        (lambda: [Holds()], "holds a list, not a state dict"),
        (History, "holds a single object, not a state dict"),
    ],
    ids=["mappings", "module", "list", "object"],
)
@pytest.mark.timeout(20)
def test_what_is_endless_or_nothing_ends(tmp_path, make, says):
    with pytest.raises(nl.CheckpointError, match=says):
        loaded(make(), tmp_path)


@pytest.mark.parametrize("beside", [{}, {"meta": History()}], ids=["weights", "objects"])
def test_a_tensor_that_repeats_its_bytes_is_not_made_larger(tmp_path, beside):
    many = torch.zeros(1).expand(2**40)
    assert_loads({**beside, "more": [many], "state_dict": layer().state_dict()}, tmp_path)
    state = {**layer().state_dict(), "weight": torch.ones(1).expand(2, 3)}
    assert loaded({**beside, "state_dict": state}, tmp_path).weight.eq(1).all()
    with pytest.raises(nl.CheckpointError, match="bytes, and claims larger tensors, weight: "):
        loaded({**beside, "state_dict": {**state, "weight": many}}, tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_program_is_named(tmp_path):
    torch.jit.save(torch.jit.trace(layer(), torch.ones(1, 3)), tmp_path / "m.pt")
    with pytest.raises(nl.CheckpointError, match=r"is a TorchScript program, .* its state_dict\(\) instead"):
        nl.load_checkpoint(tmp_path / "m.pt", nn.Linear(3, 2))


def test_the_counter_of_mmengines_averages_is_left_out(tmp_path):
    averages = {f"module.{key}": value for key, value in layer().state_dict().items()}
    content = {
        "state_dict": nn.Linear(3, 2).state_dict(),
        "ema_state_dict": {**averages, "steps": torch.tensor(3)},
    }
    assert torch.equal(loaded(content, tmp_path, entry="ema_state_dict").weight, layer().weight)
    content["ema_state_dict"]["steps"] = torch.zeros(2)
    with pytest.raises(nl.CheckpointError, match="unexpected keys: steps"):
        loaded(content, tmp_path, entry="ema_state_dict")
