"""Networks by name with any settings, blocks inserted anywhere, costs of any shape, any queries."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from fuzz_outcome import outcome_of
from hypothesis import strategies as st
from torch import nn

import nonlocalnn as nl
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.models import model_settings

NAMES = (
    "nl_digits",
    "c1d_tiny",
    "nl2_c1d_tiny",
    "resnet_tiny",
    "nl2_resnet_tiny",
    "c2d_tiny",
    "nl2_c2d_tiny",
)
# What somebody may write for a setting, fitting or not; small enough to be built.
ANYTHING = (
    *(0, 1, 2, 3, 8, -1, 10**12, 10**40, True, False, None, 0.0, 0.5, 1.5, -0.25, float("nan"), float("inf")),
    *(
        "",
        "8",
        "after",
        "before",
        "batch",
        "frozen",
        "space",
        "time",
        "gaussian",
        "dot_product",
        "concatenation",
    ),
    *(
        (),
        (1, 1, 1, 1),
        [1, 1, 2, 1],
        (1, 1),
        [0, 1, 1, 1],
        ["1"] * 4,
        (9, 9),
        [28, 28],
        [28],
        [1, 2, 3],
        "ab",
    ),
    *(
        {},
        {"layer2": [0]},
        {"layer2": [5]},
        {"layer9": [0]},
        {"layer3": 0},
        {"layer1": ["0"]},
        {1: 2},
        object,
    ),
)
PARTS = (
    "0",
    "1",
    "2",
    "0.0",
    "layer2",
    "layer2.0",
    "layer3.0.conv1",
    "conv1",
    "fc",
    "bn1",
    "nl",
    "nl_1",
    "conv_1.0",
)
REGEXES = (
    r"layer\d\.0",
    r"layer[23]",
    "conv.*",
    ".*",
    "",
    "(",
    "[",
    r"\d",
    "layer2.0|fc",
    "*",
    "(?P<",
    "0",
    "x" * 500,
)
# No empty list and no fractions inside a map, which capture_affinity leaves to an IndexError of PyTorch.
QUERIES = (
    *((0,), (0, 0), (3, 4), (-1, -1), (99, 0), (0, 0, 0), (), ("0", "0"), (None, 0), (True, False)),
    *(5, "ab", None, [0, 0], (2**70, 0), (float("nan"), 0), ((0, 0), 0), torch.tensor([1, 2])),
)
SHAPES = ("image", "clip", "sequence", "vector", "empty", "none", "negative", "text", "list", "float", "huge")


@dataclass(frozen=True)
class Network:
    """What is asked of a network by name."""

    action: str
    name: Any
    num_classes: Any
    overrides: dict[str, Any]
    after: Any
    settings: dict[str, Any]
    shape: Any
    queries: Any


_SHAPES = {
    "image": (2, 3, 32, 32),
    "clip": (1, 3, 8, 32, 32),
    "sequence": (1, 3, 64),
    "vector": (3, 32, 32),
    "empty": (0, 3, 32, 32),
    "none": (),
    "negative": (1, 3, -32, 32),
    "text": "1,3,32,32",
    "list": [1, 3, 32, 32],
    "float": (1.0, 3, 32, 32),
    "huge": (10**6, 3, 10**6, 10**6),
}


@st.composite
def networks(draw):
    action = draw(st.sampled_from(("create", "create", "insert", "cost", "capture")))
    name = draw(st.sampled_from(NAMES))
    overrides = {}
    if action == "create":
        for setting in draw(
            st.lists(st.sampled_from(model_settings(name)), min_size=0, max_size=2, unique=True)
        ):
            overrides[setting] = draw(st.sampled_from(ANYTHING))
        if draw(st.integers(0, 15)) == 0:
            overrides["no_such_setting"] = 1
        if draw(st.integers(0, 15)) == 0:
            name = draw(st.sampled_from(("resnet_tin", "", None, 3, ["c2d_tiny"], {}, "x" * 10_000)))
    after = draw(
        st.one_of(
            st.lists(st.sampled_from(PARTS), min_size=0, max_size=3),
            st.sampled_from(REGEXES),
            st.none(),
            st.text(max_size=5),
            st.sampled_from((3, [3], [None], [["0"]], {"0": 1}, ("layer2",), [""], ["."])),
        )
    )
    settings = {}
    if action == "insert" and (after is None or draw(st.integers(0, 15)) == 0):
        settings["pattern"] = draw(
            st.one_of(st.sampled_from(REGEXES), st.sampled_from((None, 3, ["layer2"])))
        )
    if action == "insert" and draw(st.booleans()):
        setting = draw(
            st.sampled_from(("inter_channels", "instantiation", "sub_sample", "use_scale", "norm", "extent"))
        )
        settings[setting] = draw(st.sampled_from(ANYTHING))
    return Network(
        action=action,
        name=name,
        num_classes=draw(st.sampled_from((None, None, None, 1, 5, *ANYTHING[:17], "7"))),
        overrides=overrides,
        after=after,
        settings=settings,
        shape=_SHAPES[draw(st.sampled_from(SHAPES))],
        queries=draw(st.one_of(st.none(), st.lists(st.sampled_from(QUERIES), min_size=1, max_size=2))),
    )


def check_network(case, folder=None):
    """Return what came of a request; AssertionError, or whatever else leaves the library, is a finding."""
    torch.manual_seed(0)
    return _ACTIONS[case.action](case)


def _create(case):
    def build():
        # Without memory: numbers that are far too large for this machine are right settings.
        with torch.device("meta"):
            return nl.create_model(case.name, num_classes=case.num_classes, **case.overrides)

    outcome, model = outcome_of(build, (ValueError, TypeError))
    if outcome == "refused":
        assert case.overrides or case.num_classes is not None or case.name not in NAMES, str(model)
        return outcome
    assert all(value.numel() for value in model.parameters()), "a layer has no parameter"
    wanted = (case.name, case.overrides)
    assert (model.config["name"], model.config["overrides"]) == wanted
    return outcome


def _model(name):
    return nl.create_model(name).eval()


def _insert(case):
    model = _model(case.name)
    before = list(model.state_dict())
    known = set(nonlocal_blocks(model))
    outcome, report = outcome_of(
        lambda: nl.insert_nonlocal_(model, case.after, **case.settings), (ValueError, TypeError)
    )
    if outcome == "refused":
        assert list(model.state_dict()) == before, "a refused insertion left something behind"
        return outcome
    new = [name for name in nonlocal_blocks(model) if name not in known]
    assert set(new) == {entry.name for entry in report.blocks}
    assert new
    assert set(before) <= set(model.state_dict())
    assert sorted(nl.remove_nonlocal_(model, new)) == sorted(new)
    assert set(model.state_dict()) == set(before)
    return outcome


def _cost(case):
    model = case.name if case.queries is None else _model(case.name)
    try:
        outcome, total = outcome_of(
            lambda: nl.cost(model, case.shape), (ValueError, TypeError), anywhere=True
        )
    except RuntimeError as error:
        # A network's own words, of a layer that does not take such a map.
        is_shape = isinstance(case.shape, tuple) and all(
            type(side) is int and side > 0 for side in case.shape
        )
        if not is_shape or not re.search("size|shape|dim", str(error)):
            raise
        return "refused by a layer"
    if outcome == "answered":
        assert total.num_parameters > 0
        assert total.flops > 0
    return outcome


def _capture(case):
    model = _model(case.name)
    sides = {"c1d": (64,), "c2d": (8, 32, 32), "digits": (28, 28)}
    shape = next((each for part, each in sides.items() if part in case.name), (32, 32))
    x = torch.rand(1, 1 if "digits" in case.name else 3, *shape)

    def run():
        with nl.capture_affinity(model, queries=case.queries) as maps:
            model(x)
        return {name: each.affinity for name, each in maps.items()}

    outcome, maps = outcome_of(run, (ValueError, TypeError))
    assert not any(module._forward_pre_hooks for module in model.modules() if isinstance(module, nn.Module))
    if outcome == "answered":
        assert maps
        assert all(bool(each.isfinite().all()) for each in maps.values())
    return outcome


_ACTIONS = {"create": _create, "insert": _insert, "cost": _cost, "capture": _capture}
