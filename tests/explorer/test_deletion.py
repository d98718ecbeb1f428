"""What an answer loses without what is attended."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from nonlocalnn.explorer import deletion
from nonlocalnn.explorer.deletion import deletion_test
from nonlocalnn.inference.classifier import Classifier
from tolerances import near


class LooksAtBright(nn.Module):
    """Its block attends to bright pixels, whatever the query, and its score is their sum."""

    def __init__(self, sign):
        super().__init__()
        self.block = nl.NonLocal2d(1, instantiation="dot_product", sub_sample=None, norm=None)
        with torch.no_grad():
            # theta is 1 everywhere and phi the pixel, so that a weight is the pixel over the number of keys.
            self.block.theta.weight.zero_()
            self.block.theta.bias.fill_(1.0)
            self.block.phi.weight.fill_(1.0)
            self.block.phi.bias.zero_()
        self.sign = sign

    def forward(self, x):
        score = self.sign * self.block(x).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


def classifier(model, shape):
    return Classifier(model.eval(), classes=("yes", "no"), sample_shape=shape, recipe={})


def image():
    pixels = torch.full((1, 4, 6), 0.01)
    pixels[0, 1, 2], pixels[0, 3, 5] = 1.0, 0.9
    return pixels


def expected_change(pixels, taken, sign=1):
    """Return the change of the predicted class's probability when some pixels become the mean."""
    changed = pixels.clone()
    for place in taken:
        changed[(0, *place)] = pixels.mean()
    before, after = (torch.sigmoid(sign * value.sum()) for value in (pixels, changed))
    return float(after - before) if sign * pixels.sum() > 0 else float(before - after)


@pytest.mark.parametrize("sign", [1, -1], ids=["yes", "no"])
def test_the_most_attended_is_taken_out(sign):
    pixels = image()
    (found,) = deletion_test(
        classifier(LooksAtBright(sign), (1, 4, 6)), pixels, fractions=(2 / 24,), num_random=30
    )
    assert (found.block, found.fraction) == ("block", 2 / 24)
    assert found.most == near(expected_change(pixels, [(1, 2), (3, 5)], sign))
    assert found.least == near(expected_change(pixels, [(0, 0), (0, 1)], sign))
    # The odds are the sum of the pixels, also where the score of the predicted class is 0 for all inputs.
    assert found.gradient == near(found.most)
    assert (found.number, found.num_keys) == (2, 24)
    assert len(found.random) == 30
    # Of 30 draws of two pixels some are dark ones only, and hardly one is just the two bright ones.
    assert max(found.random) == near(found.least)
    numbers = found.as_numbers()
    assert numbers["random_mean"] == near(sum(found.random) / 30)
    assert found.most < numbers["random_mean"] < found.least
    assert numbers["random_sd"] > 0


def test_draws_follow_the_seed():
    loaded = classifier(LooksAtBright(1), (1, 4, 6))
    once, again, other = (deletion_test(loaded, image(), fractions=(0.3,), seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert once[0].random != other[0].random
    assert once[0].as_numbers()["random_sd"] is not None
    assert deletion_test(loaded, image(), fractions=(0.3,), num_random=1)[0].as_numbers()["random_sd"] is None


def test_pixels_go_with_the_nearest_key_and_at_least_one_key_is_taken():
    """Strides put keys apart: each takes its box along."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2, 2, bias=False), LooksAtBright(1))
    nn.init.constant_(model[0].weight, 0.25)
    pixels = image()
    found = deletion_test(classifier(model, (1, 4, 6)), pixels, fractions=(0.01,), num_random=1)
    changed = pixels.clone()
    changed[0, 0:2, 2:4] = pixels.mean()
    before, after = (torch.sigmoid(0.25 * value.sum()) for value in (pixels, changed))
    assert found[0].most == near(float(after - before))


def test_the_gradient_finds_what_no_block_looks_at():
    class LooksElsewhere(LooksAtBright):
        def forward(self, x):
            # Its block attends to bright pixels, and the score is of the first row alone.
            score = self.sign * (0 * self.block(x).sum((1, 2, 3)) + x[:, 0, 0].sum(1))
            return torch.stack([score, torch.zeros_like(score)], 1)

    pixels = image()
    pixels[0, 0, 3] = 0.5
    (found,) = deletion_test(
        classifier(LooksElsewhere(1), (1, 4, 6)), pixels, fractions=(0.01,), num_random=1
    )
    assert found.most == near(0.0)
    before, after = (
        torch.sigmoid(row.sum())
        for row in (pixels[0, 0], torch.cat([pixels[0, 0, :3], pixels[0, 0, 4:], pixels.mean()[None]]))
    )
    assert found.gradient == near(float(after - before))


class Rounds(LooksAtBright):
    """No gradient reaches its input."""

    def forward(self, x):
        return super().forward((x > 0.5).to(x.dtype))


def test_without_a_gradient_there_is_no_rival():
    (found,) = deletion_test(classifier(Rounds(1), (1, 4, 6)), image(), fractions=(2 / 24,), num_random=3)
    assert found.gradient is found.as_numbers()["gradient"] is None
    assert len(found.random) == 3
    assert found.most < found.least


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_and_samples_of_other_types(dtype):
    loaded = classifier(LooksAtBright(1).to(dtype), (1, 4, 6))
    (found,) = deletion_test(loaded, image().to(dtype), fractions=(2 / 24,), num_random=1)
    assert found.gradient == found.most < 0


def test_in_inference_mode():
    with torch.inference_mode():
        loaded, pixels = classifier(LooksAtBright(1), (1, 4, 6)), image()
        (within,) = deletion_test(loaded, pixels, fractions=(2 / 24,), num_random=1)
    outside = classifier(LooksAtBright(1), (1, 4, 6))
    outside.model.load_state_dict(loaded.model.state_dict())
    with torch.inference_mode():
        (called,) = deletion_test(outside, image(), fractions=(2 / 24,), num_random=1)
    assert (within.gradient, called.gradient) == (None, called.most)


def test_the_gradient_is_of_what_a_video_network_says_of_all_windows():
    torch.manual_seed(0)
    model = nl.create_model("nl2_c2d_tiny", window=1).eval()
    loaded = Classifier(model, classes=tuple("0123456789"), sample_shape=(3, 8, 32, 32), recipe={})
    sample = torch.rand(3, 8, 48, 48)
    predicted = int(loaded.ask(sample[None]).argmax())
    costs = deletion._linear_costs(loaded, sample, predicted)

    def odds(clip):
        (found,) = loaded.ask(clip[None])
        return float(found[predicted].log() - (1 - found[predicted]).log())

    # A small way to the mean of each channel costs, to first order, that share of all costs.
    mean = sample.flatten(1).mean(1).view(-1, 1, 1, 1)
    step = 1e-3
    fall = odds(sample - step * (mean - sample)) - odds(sample + step * (mean - sample))
    assert float(costs.sum()) == pytest.approx(fall / (2 * step), rel=0.02)


def test_clips_and_several_blocks():
    model = nl.create_model("nl2_c2d_tiny").eval()
    loaded = Classifier(model, classes=tuple("0123456789"), sample_shape=(3, 8, 32, 32), recipe={})
    found = deletion_test(loaded, torch.rand(3, 8, 32, 32), fractions=(0.1, 0.5), num_random=2)
    assert [(each.block, each.fraction) for each in found] == [
        ("layer2.0.nl", 0.1),
        ("layer2.0.nl", 0.5),
        ("layer3.0.nl", 0.1),
        ("layer3.0.nl", 0.5),
    ]
    only = deletion_test(loaded, torch.rand(3, 8, 32, 32), blocks=["layer3.0.nl"], num_random=1)
    assert {each.block for each in only} == {"layer3.0.nl"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fractions": (0.0,)}, r"fractions must be numbers between 0 and 1; got \(0.0,\)"),
        ({"fractions": (0.5, 1)}, "fractions must be numbers between 0 and 1"),
        ({"fractions": ()}, "fractions must be numbers"),
        ({"num_random": 0}, "num_random must be at least 1; got 0"),
        ({"blocks": ["blok"]}, r"no non-local block 'blok' \(did you mean 'block'\?\)"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        deletion_test(classifier(LooksAtBright(1), (1, 4, 6)), image(), **settings)


def test_shares_that_are_the_same_keys_stand_once():
    loaded, shares = classifier(LooksAtBright(1), (1, 4, 6)), (0.01, 0.02, 0.05, 0.1, 0.5)
    found = deletion_test(loaded, image(), fractions=shares, num_random=2)
    assert [(each.number, each.fraction) for each in found] == [(1, 0.01), (2, 0.1), (12, 0.5)]
    assert [each.as_numbers()["num_keys"] for each in found] == [24] * 3
