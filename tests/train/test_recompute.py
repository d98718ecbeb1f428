"""Activations that are computed again change nothing."""

import copy

import pytest
import torch
from tiny_task import TinyTask, assert_identical, final_state, tiny_recipe
from torch import nn

from nonlocalnn.models import create_model
from nonlocalnn.train import train
from nonlocalnn.train.parallel.layout import units
from nonlocalnn.train.recompute import recompute_
from tolerances import assert_same


class Noted(nn.Module):
    """Counts its passes, and keeps statistics in a buffer."""

    def __init__(self):
        super().__init__()
        self.passes = 0
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("nothing", None)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())

    def forward(self, x, *, factor=1.0):
        self.passes += 1
        self.mean += x.mean()
        return self.layers(x * factor)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_gradients_and_statistics_are_the_same_bits(momentum):
    kept = nn.Sequential(Noted(), Noted().requires_grad_(False), nn.Conv2d(4, 2, 1))
    kept[1].layers[0] = nn.Conv2d(4, 4, 3)
    kept[0].layers[1].momentum = momentum
    again = copy.deepcopy(kept)
    keys = list(again.state_dict())
    recompute_([again[0], again[1]])
    x = torch.randn(3, 2, 8, 8)
    for model in (kept, again):
        for step in range(2):
            torch.manual_seed(step)
            model(x).square().mean().backward()
    for first, second in zip(kept.parameters(), again.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None)
        if first.grad is not None:
            assert_same(first.grad, second.grad)
    assert_same(kept.state_dict(), again.state_dict())
    assert list(again.state_dict()) == keys
    assert (kept[0].passes, again[0].passes) == (2, 4)


def test_without_gradients_nothing_is_computed_twice():
    model = Noted()
    recompute_([model])
    with torch.no_grad():
        model(torch.randn(3, 2, 8, 8), factor=2.0)
    assert model.passes == 1


def test_named_inputs_reach_the_module():
    plain = Noted().eval()
    again = copy.deepcopy(plain)
    recompute_([again])
    x = torch.randn(3, 2, 8, 8)
    assert_same(again(x, factor=3.0), plain(x, factor=3.0))


def test_a_network_with_blocks_has_the_same_gradients():
    kept = create_model("nl2_c2d_tiny", num_classes=3)
    again = copy.deepcopy(kept)
    recompute_(units(again))
    x = torch.rand(2, *(3, 8, 32, 32))
    for model in (kept, again):
        model(x).logsumexp(1).sum().backward()
    for first, second in zip(kept.parameters(), again.parameters(), strict=True):
        assert_same(first.grad, second.grad)
    assert_same(kept.state_dict(), again.state_dict())


def test_units_of_a_residual_network_are_its_bottlenecks():
    model = create_model("c2d_tiny")
    assert units(model) == [stage[0] for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]


def test_units_of_another_network_are_what_is_called():
    inner = [nn.Linear(2, 2), nn.Linear(2, 2)]
    model = nn.ModuleDict({"a": nn.ModuleList(inner), "b": nn.Sequential(nn.Linear(2, 2)), "c": nn.ReLU()})
    assert units(model) == [*inner, model["b"]]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_ends_with_the_same_bits(ranks, tmp_path, accumulate):
    changes = {"epochs": 1, "accumulate": accumulate}
    kept = tiny_recipe(tmp_path / "kept", **changes)
    again = tiny_recipe(tmp_path / "again", activation_checkpointing=True, **changes)
    for recipe in (kept, again):
        ranks(recipe, {}, {})
    assert_identical(final_state(kept.output), final_state(again.output))


def test_a_run_may_be_resumed_with_and_without(tmp_path):
    whole, parts = tiny_recipe(tmp_path / "whole"), tiny_recipe(tmp_path / "parts")
    train(whole, task=TinyTask())
    train(parts, task=TinyTask(stop_at=4))
    again = tiny_recipe(tmp_path / "parts", activation_checkpointing=True)
    train(again, task=TinyTask(), resume=True)
    assert_identical(final_state(whole.output), final_state(parts.output))
