"""U-Nets over sequences: every length, nothing seen of padding, blocks that do something."""

import copy
import pickle

import pytest
import torch

import nonlocalnn as nl
from nonlocalnn.data.sequences.padding import pad_batch
from nonlocalnn.models import UNet1d, model_input, model_task
from tolerances import NETWORK, assert_near, assert_same

NAMES = ["unet1d", "nl_unet1d", "unet1d_tiny", "nl_unet1d_tiny"]


def network(**settings):
    torch.manual_seed(0)
    given = {"num_classes": 3, "in_channels": 2, "width": 8, "depth": 3, **settings}
    return UNet1d(**given)


@pytest.mark.parametrize("name", NAMES)
def test_by_name(name):
    model = nl.create_model(name, num_classes=3, in_channels=2, width=4).eval()
    assert (model_task(name), model_input(name)) == ("segmentation", "sequence")
    assert len(nl.nonlocal_blocks(model)) == name.startswith("nl_")
    assert model(torch.randn(2, 2, 45)).shape == (2, 3, 45)


@pytest.mark.parametrize("length", [1, 2, 7, 32, 33, 101])
def test_any_length(length):
    assert network().eval()(torch.randn(1, 2, length)).shape == (1, 3, length)


@pytest.mark.parametrize(("depth", "training"), [(3, False), (5, False), (3, True)])
def test_sequences_in_a_batch_are_as_they_are_alone(training, depth):
    model = network(depth=depth).double()
    with torch.no_grad():
        model.nl.W_z.weight.normal_(std=0.3)
    samples = [torch.randn(2, length, dtype=torch.float64) for length in (33, 40, 70)]
    batch, lengths = pad_batch(samples)
    # What lies on the padding is not looked at.
    for row, sample in zip(batch, samples, strict=True):
        row[:, sample.shape[1] :] = 1e3
    if training:
        # Statistics are of the real steps of all: those of a batch of one are its own.
        for sample in samples:
            one, one_length = torch.full((1, 2, 96), 1e3, dtype=torch.float64), sample.shape[1]
            one[0, :, :one_length] = sample
            with nl.real_positions(torch.tensor([[one_length]]), canvas=(96,)):
                padded = copy.deepcopy(model).train()(one)
            alone = copy.deepcopy(model).train()(sample[None])[0]
            assert_near(padded[0, :, :one_length], alone, sums=NETWORK)
        return
    model.eval()
    with nl.real_positions(lengths, canvas=batch.shape[2:]):
        padded = model(batch)
    for scores, sample in zip(padded, samples, strict=True):
        assert_near(scores[:, : sample.shape[1]], model(sample[None])[0], sums=NETWORK)


def test_the_block_looks_at_the_whole_sequence():
    """A convolution sees a few dozen steps; without the block the last score knows nothing of the first."""
    for context, sees in (("non_local", True), (None, False)):
        model = network(context=context).eval()
        x = torch.randn(1, 2, 400, requires_grad=True)
        model(x)[0, :, -1].sum().backward()
        assert bool(x.grad[0, :, 0].any()) == sees


def test_copies_and_files(tmp_path):
    model = network().eval()
    x = torch.randn(1, 2, 19)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(other(x), model(x))
    named = nl.create_model("nl_unet1d_tiny", num_classes=3, in_channels=2).eval()
    nl.save_checkpoint(named, tmp_path / "a.safetensors", metadata={"classes": ["a", "b", "c"]})
    assert_same(nl.load_checkpoint(tmp_path / "a.safetensors").eval()(x), named(x))


def test_names_of_weights_stay():
    keys = list(network(depth=1).state_dict())
    assert keys[0] == "first.conv1.weight"
    assert {"down.0.conv1.weight", "up.0.bn2.running_var", "nl.theta.weight", "scores.bias"} <= set(keys)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"depth": 6}, "depth"), ({"context": "all"}, "context"), ({"width": 0}, "width")],
)
def test_wrong_settings(settings, says):
    with pytest.raises(ValueError, match=says):
        network(**settings)


def test_another_rank():
    with pytest.raises(ValueError, match=r"takes \(B, C, N\); got shape \(2, 9\)"):
        network()(torch.randn(2, 9))
