"""Residual networks over padded batches: each sample has the scores and gradients that it has alone."""

import copy

import pytest
import torch
from torch.nn import functional as F

import nonlocalnn as nl
from helpers import randomize_, slow_affinity, slow_pool
from nonlocalnn.functional import INSTANTIATIONS
from nonlocalnn.models.bottleneck import Bottleneck
from nonlocalnn.train.parallel.layout import units
from nonlocalnn.train.recompute import recompute_
from tolerances import NETWORK, assert_near, assert_same

LENGTHS = (7, 29, 1, 18)
# Of the deeper network some dozen layers follow one another.
SUMS = 10 * NETWORK
NAMES = ("nl2_resnet1d_tiny", "nl2_resnet1d_18")


def network(name, **settings):
    torch.manual_seed(len(name))
    return randomize_(nl.create_model(name, num_classes=3, in_channels=2, width=4, **settings)).double()


def samples_of(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, length, generator=generator).double().requires_grad_() for length in lengths]


def padded(samples, canvas, filling=0.0):
    rows = [F.pad(sample, (0, canvas - sample.shape[1]), value=filling) for sample in samples]
    return torch.stack(rows), [(sample.shape[1],) for sample in samples]


def run(model, samples, canvas, filling=0.0):
    batch, sizes = padded(samples, canvas, filling)
    with nl.real_positions(sizes, (canvas,)):
        return model(batch)


def over_all(norm, maps):
    """A norm whose statistics are of all positions of all maps: one after another they are one map."""
    return list(norm(torch.cat(maps, 2)).split([each.shape[2] for each in maps], 2))


def slow_network(model, samples):
    """Every layer on every sample by itself, but for norms, which add up over all samples."""
    maps = [model.conv1(sample[None]) for sample in samples]
    maps = list(map(F.relu, over_all(model.bn1, maps)))
    if model.pool1 is not None:
        maps = [model.pool1(each) for each in maps]
    for bottleneck in (each for each in model.modules() if isinstance(each, Bottleneck)):
        maps = slow_bottleneck(bottleneck, maps)
    return torch.cat([model.fc(each.mean(2)) for each in maps])


def slow_bottleneck(bottleneck, maps):
    shortcuts = maps
    if bottleneck.downsample is not None:
        convolution, norm = bottleneck.downsample
        shortcuts = over_all(norm, list(map(convolution, maps)))
    for convolution, norm in ((bottleneck.conv1, bottleneck.bn1), (bottleneck.conv2, bottleneck.bn2)):
        maps = list(map(F.relu, over_all(norm, list(map(convolution, maps)))))
    maps = over_all(bottleneck.bn3, list(map(bottleneck.conv3, maps)))
    maps = [F.relu(each + shortcut) for each, shortcut in zip(maps, shortcuts, strict=True)]
    block = bottleneck.nl
    if block is None:
        return maps
    found = []
    for each in maps:
        g = block.g(slow_pool(each, 1) if block.sub_sample == "before" else each)
        g = slow_pool(g, 1) if block.sub_sample == "after" else g
        found.append(block.W_z(torch.einsum("bnm,bem->ben", slow_affinity(block, each), g)))
    return [each + z for each, z in zip(maps, over_all(block.norm, found), strict=True)]


def gradients(scores, model, samples):
    torch.manual_seed(0)
    loss = (scores * torch.randn_like(scores)).sum()
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, [*named.values(), *samples])
    return {str(key): value for key, value in zip([*named, *range(len(samples))], found, strict=True)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_padded_batch_is_its_samples_alone(name, instantiation, training):
    use_scale = instantiation in ("gaussian", "embedded_gaussian")
    model = network(name, instantiation=instantiation, use_scale=use_scale).train(training)
    reference = copy.deepcopy(model)
    samples = samples_of()
    found, expected = run(model, samples, 64), slow_network(reference, samples)
    assert_near(found, expected, sums=SUMS)
    mine, theirs = gradients(found, model, samples), gradients(expected, reference, samples)
    assert_near(mine, theirs, sums=SUMS)
    for key, value in reference.state_dict().items():
        if "running" in key:
            assert_near(model.state_dict()[key], value, sums=SUMS, says=key)


@pytest.mark.parametrize("name", NAMES)
def test_in_eval_mode_a_sample_alone_is_what_the_plain_network_gives(name):
    model = network(name).eval()
    samples = samples_of()
    found = run(model, samples, 32)
    for scores, sample in zip(found, samples, strict=True):
        assert_near(scores, model(sample[None])[0], sums=SUMS)
    # Without the context padding changes the answer, or this test would show nothing.
    assert float((model(padded(samples, 32)[0]) - found)[0].detach().abs().max()) > 1e-3


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_neither_what_is_in_the_padding_nor_how_much_there_is_matters(training):
    model = network("nl2_resnet1d_tiny").train(training)
    samples = samples_of()
    found = run(model, samples, 32)
    assert_near(run(model, samples, 32, filling=1e3), found, sums=SUMS)
    assert_near(run(model, samples, 96), found, sums=SUMS)


def test_images_are_their_own_too():
    model = network("nl2_resnet_tiny").eval()
    samples = [torch.randn(2, height, width).double() for height, width in ((7, 30), (32, 9))]
    batch = torch.stack([F.pad(each, (0, 32 - each.shape[2], 0, 64 - each.shape[1])) for each in samples])
    with nl.real_positions([(7, 30), (32, 9)], (64, 32)):
        found = model(batch)
    for scores, sample in zip(found, samples, strict=True):
        assert_near(scores, model(sample[None])[0], sums=SUMS)


def test_without_padding_no_bit_changes():
    model = network("nl2_resnet1d_tiny")
    again = copy.deepcopy(model)
    samples = samples_of((32, 32))
    assert_same(run(model, samples, 32), again(padded(samples, 32)[0]))
    assert_same(model.state_dict(), again.state_dict())


def test_what_is_computed_again_knows_what_is_real():
    """The backward pass runs after the context has ended."""
    kept = network("nl2_resnet1d_tiny")
    again = copy.deepcopy(kept)
    recompute_(units(again))
    samples = samples_of()
    found = [gradients(run(model, samples, 32), model, samples) for model in (kept, again)]
    assert_same(found[1], found[0])


def test_a_traced_network_keeps_to_what_is_real():
    model = network("nl2_resnet1d_tiny").eval()
    traced = torch.fx.symbolic_trace(model)
    samples = samples_of()
    assert_near(run(traced, samples, 32), run(model, samples, 32), sums=SUMS)
    assert_near(traced(samples[1][None]), model(samples[1][None]), sums=SUMS)


def test_windows_take_no_padding():
    model = network("nl2_resnet1d_tiny").eval()
    with pytest.raises(ValueError, match="windows are of maps without padding: call the network itself"):
        run(model.probabilities, samples_of(), 32)


def test_another_number_of_samples_is_refused():
    model = network("nl2_resnet1d_tiny").eval()
    with nl.real_positions([(7,)], (32,)), pytest.raises(ValueError, match="sizes of 1 samples"):
        model(torch.zeros(2, 2, 32).double())
