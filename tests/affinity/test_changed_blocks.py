"""Maps of blocks whose layers others changed, and of models in wrappers; what runs stays as it is."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

from helpers import randomize_
from nonlocalnn import NonLocal2d, blocks, capture_affinity
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near

C = 6


def network(instantiation="embedded_gaussian"):
    return randomize_(
        nn.Sequential(nn.Conv2d(3, C, 1), NonLocal2d(C, instantiation=instantiation), nn.ReLU())
    )


def spectral(block):
    parametrizations.spectral_norm(block.theta)


def with_statistics(block):
    block.theta = nn.Sequential(block.theta, nn.BatchNorm2d(3))


def with_dropout(block):
    block.g = nn.Sequential(block.g, nn.Dropout(0.5))


@pytest.mark.parametrize("change", [spectral, with_statistics, with_dropout])
def test_a_training_step_is_the_same_with_maps_and_without(change):
    net = network().train()
    change(net[1])
    twin, x = copy.deepcopy(net), torch.randn(2, 3, 7, 5)
    torch.manual_seed(0)
    expected = twin(x)
    after = torch.rand(1)
    torch.manual_seed(0)
    with capture_affinity(net) as maps:
        z = net(x)
    assert torch.equal(z, expected)
    assert torch.equal(torch.rand(1), after)
    for (key, value), other in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    assert maps["1"].affinity.shape == (2, 35, 6)


def test_maps_are_those_of_the_random_numbers_that_the_block_draws():
    net = network().train()
    net[1].theta = nn.Sequential(net[1].theta, nn.Dropout(0.5))
    drawn = []
    net[1].theta.register_forward_hook(lambda layer, inputs, output: drawn.append(output.detach()))
    with capture_affinity(net):
        net(torch.randn(2, 3, 7, 5))
    assert len(drawn) == 2
    assert torch.equal(*drawn)


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_the_layers_of_a_block_get_no_hooks(instantiation, monkeypatch):
    """With hooks they would be called, which is another way to compute the block."""
    net, plain = network(instantiation).eval(), []
    layers_of = blocks.NonLocalNd._layers

    def layers(block, x):
        found = layers_of(block, x)
        plain.append(not any(isinstance(layer, nn.Module) for layer in found))
        return found

    monkeypatch.setattr(blocks.NonLocalNd, "_layers", layers)
    with capture_affinity(net):
        net(torch.randn(2, 3, 7, 5))
    assert plain
    assert all(plain)


def test_a_block_that_is_called_by_keyword():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.nl = randomize_(NonLocal2d(C))

        def forward(self, maps):
            return self.nl(x=maps)

    net, x = Network(), torch.randn(2, C, 7, 5)
    with capture_affinity(net) as maps:
        net(maps=x)
    assert_near(maps["nl"].affinity, net.nl.affinity(x).detach())


@pytest.mark.parametrize("wrap", [lambda block: torch.compile(block, backend="eager"), checkpoint_wrapper])
def test_names_are_without_the_words_of_wrappers(wrap):
    net, x = network().eval(), torch.randn(2, 3, 7, 5)
    with capture_affinity(net) as expected:
        net(x)
    net[1] = wrap(net[1])
    with capture_affinity(net, blocks=["1"]) as maps:
        net(x)
    assert list(maps) == ["1"]
    assert_near(maps["1"].affinity, expected["1"].affinity)


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: net.to("meta")(x.to("meta")),
        lambda net, x: torch.func.vmap(lambda sample: net(sample[None]))(x),
        lambda net, x: torch.func.jvp(net, (x,), (x,)),
    ],
    ids=["meta", "vmap", "jvp"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_what_has_no_numbers_is_not_recorded(run):
    net = network().eval()
    with capture_affinity(net), pytest.raises(ValueError, match="a map to record must have numbers: run the"):
        run(net, torch.randn(2, 3, 7, 5))


def test_a_w_f_that_is_moved_away_between_calls():
    net = network("concatenation").eval()
    net[1].w_f = nn.Parameter(net[1].w_f.to("meta"))
    with capture_affinity(net), pytest.raises(ValueError, match="samples and weights in memory"):
        net(torch.randn(2, 3, 7, 5))
