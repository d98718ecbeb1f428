"""The maps of a running model."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.functional import INSTANTIATIONS


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_maps_of_the_digit_network(instantiation, training):
    model = randomize_(nl.create_model("nl_digits", instantiation=instantiation)).train(training)
    seen = {}
    model.nl_2.register_forward_pre_hook(lambda block, inputs: seen.update(x=inputs[0]))
    with nl.capture_affinity(model) as maps:
        model(torch.rand(2, 1, 28, 28))
    assert list(maps) == ["nl_1", "nl_2"]
    assert maps["nl_1"].affinity.shape == (2, 196, 49)
    assert (maps["nl_2"].query_shape, maps["nl_2"].key_shape) == ((7, 7), (3, 3))
    torch.testing.assert_close(maps["nl_2"].affinity, model.nl_2.affinity(seen["x"]))
    assert not maps["nl_2"].affinity.requires_grad


def test_output_is_unchanged_and_no_hook_stays():
    model = randomize_(nl.create_model("nl_digits")).eval()
    x = torch.rand(2, 1, 28, 28)
    expected = model(x)
    with nl.capture_affinity(model, ["nl_2"]) as maps:
        assert torch.equal(model(x), expected)
    assert list(maps) == ["nl_2"]
    with pytest.raises(RuntimeError, match="inside"), nl.capture_affinity(model):
        raise RuntimeError("inside")
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in model.modules())


def test_non_square_maps_and_queries():
    block = randomize_(nl.NonLocal2d(4))
    with nl.capture_affinity(nn.Sequential(block)) as maps:
        block(torch.randn(1, 4, 6, 11))
    shown = maps["0"]
    assert (shown.query_shape, shown.key_shape) == ((6, 11), (3, 5))
    torch.testing.assert_close(shown.of_query(2, 7), shown.affinity[:, 2 * 11 + 7].view(1, 3, 5))
    torch.testing.assert_close(shown.of_query(-1, -1), shown.of_query(5, 10))
    for wrong in ((6, 0), (0, 11), (0,), (-7, 0)):
        with pytest.raises(ValueError, match=r"query must be a place in \(6, 11\)"):
            shown.of_query(*wrong)


@pytest.mark.parametrize(
    ("extent", "groups", "query_shape", "key_shape"),
    [
        ("spacetime", 1, (4, 6, 5), (4, 3, 2)),
        ("space", 4, (6, 5), (3, 2)),
        ("time", 30, (4,), (2,)),
        (2, 2, (2, 6, 5), (2, 3, 2)),
    ],
)
def test_extents(extent, groups, query_shape, key_shape):
    block = randomize_(nl.NonLocal3d(4, extent=extent))
    with nl.capture_affinity(nn.Sequential(block)) as maps:
        block(torch.randn(3, 4, 4, 6, 5))
    shown = maps["0"]
    assert (shown.query_shape, shown.key_shape) == (query_shape, key_shape)
    numbers = [torch.Size(shape).numel() for shape in (query_shape, key_shape)]
    assert shown.affinity.shape == (3 * groups, *numbers)
    assert shown.of_query(*[0] * len(query_shape)).shape == (3 * groups, *key_shape)


def test_wrong_calls():
    with (
        pytest.raises(ValueError, match="the model has no non-local block"),
        nl.capture_affinity(nn.Linear(2, 2)),
    ):
        pass
    model = nl.create_model("nl_digits")
    with (
        pytest.raises(
            ValueError, match=r"no non-local block 'nl_3' \(did you mean 'nl_[12]'\?\); it has nl_1"
        ),
        nl.capture_affinity(model, ["nl_3"]),
    ):
        pass
