"""Modules that equal a block of ours on some maps, weights or calls only: they stay or say what they lack."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nonlocalnn as nl
from helpers import left
from tolerances import assert_near


class Attention(nn.Module):
    """Scaled attention over images; what is odd about it is given."""

    def __init__(self, forward, **held):
        super().__init__()
        self.query, self.key, self.value, self.proj = (nn.Conv2d(8, 8, 1) for _ in range(4))
        for name, each in held.items():
            if isinstance(each, nn.Parameter):
                self.register_parameter(name, each)
            else:
                self.register_buffer(name, each, persistent=not each.is_floating_point())
        self.compute = forward
        for parameter in (*self.query.parameters(), *self.key.parameters(), *self.proj.parameters()):
            nn.init.normal_(parameter, 0, 0.5)

    def forward(self, x):
        return self.compute(self, x)

    def attend(self, x, change=lambda logits: logits, pool=lambda maps: maps):
        q, k, v = self.query(x), pool(self.key(x)), pool(self.value(x))
        logits = q.flatten(2).transpose(1, 2) @ k.flatten(2) * 8**-0.5
        y = v.flatten(2) @ change(logits).softmax(2).transpose(1, 2)
        return self.proj(y.unflatten(2, x.shape[2:]))


LATER = torch.ones(2048, 2048, dtype=torch.bool).triu(1)


def masked(self, x):
    return x + self.attend(
        x, lambda logits: logits.masked_fill(self.mask[: logits.shape[1], : logits.shape[2]], -1e9)
    )


def biased(self, x):
    return x + self.attend(x, lambda logits: logits + self.bias[: logits.shape[1], : logits.shape[2]])


def shifted(self, x):
    return x + self.attend(x).roll(int(self.shift), 3)


def flipped(self, x):
    return x + (self.attend(x).flip(3) if self.flip else self.attend(x))


def multiplied(self, x):
    return x + self.attend(x) * (1 + self.factor)


def by(function):
    return lambda self, x: x + function(self.gamma) * self.attend(x)


def in_windows(side):
    def forward(self, x):
        rows, columns = (length // side for length in x.shape[2:])
        if (rows * side, columns * side) != x.shape[2:]:
            return x + self.attend(x)
        parts = x.unfold(2, side, side).unfold(3, side, side)
        parts = self.attend(parts.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        parts = parts.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
        return x + parts.reshape(x.shape)

    return forward


def near_to(radius):
    def forward(self, x):
        at = torch.cartesian_prod(*(torch.arange(side) for side in x.shape[2:]))
        far = (at[:, None] - at).abs().amax(2) > radius
        return x + self.attend(x, lambda logits: logits.masked_fill(far, -1e9))

    return forward


def pooled_above(number):
    def forward(self, x):
        is_large = x.shape[2] * x.shape[3] > number
        return x + self.attend(x, pool=lambda maps: F.max_pool2d(maps, 2) if is_large else maps)

    return forward


def best_64(self, x):
    def change(logits):
        lowest = logits.topk(min(64, logits.shape[2]), 2).values[..., -1:]
        return logits.masked_fill(logits < lowest, -1e9)

    return x + self.attend(x, change)


def clamped(self, x):
    return x + self.attend(x, lambda logits: logits.clamp(-50, 50))


def counting(self, x):
    self.calls += 1
    return x + self.attend(x) * (1 if self.calls < 2 else 2)


def gamma(value=0.7):
    return nn.Parameter(torch.tensor([value]))


FLOAT_MASK = torch.zeros(2048, 2048).masked_fill(LATER, -1e4)
LEFT = {
    "mask": (masked, {"mask": LATER}, "computes something else"),
    "shift": (shifted, {"shift": torch.tensor(2)}, "computes something else"),
    "flip": (flipped, {"flip": torch.tensor(True)}, "computes something else"),
    "factor": (multiplied, {"factor": torch.tensor(3)}, "computes something else"),
    "float mask": (biased, {"bias": FLOAT_MASK}, "computes something else"),
    "small bias": (biased, {"bias": 0.01 * FLOAT_MASK.sign()}, "computes something else"),
    "relu": (by(F.relu), {"gamma": gamma()}, "other random weights.*limit a factor"),
    "abs": (by(torch.abs), {"gamma": gamma()}, "other random weights.*limit a factor"),
    "clamp": (by(lambda g: g.clamp(-5, 5)), {"gamma": gamma()}, "other random weights"),
    "negative relu": (by(F.relu), {"gamma": gamma(-0.7)}, "its own weights"),
    "windows of 8": (in_windows(8), {}, r"on maps of \(16, 16\)"),
    "windows of 7": (in_windows(7), {}, r"on maps of \(21, 35\)"),
    "neighbours": (near_to(7), {}, "size of maps"),
    "far neighbours": (near_to(24), {}, r"on maps of \(32, 48\)"),
    "pooled": (pooled_above(64), {}, "size of maps"),
    "pooled if large": (pooled_above(1024), {}, r"on maps of \(32, 48\)"),
    "the best keys": (best_64, {}, "size of maps"),
    "clamped logits": (clamped, {}, "limit a factor or the logits"),
    "a counter": (counting, {"calls": torch.tensor(0)}, "when it is called again"),
}


@pytest.mark.parametrize(
    ("forward", "held", "reason"), LEFT.values(), ids=[name.replace(" ", "_") for name in LEFT]
)
def test_what_equals_a_block_only_sometimes_is_left(forward, held, reason):
    assert re.search(reason, left(Attention(forward, **copy.deepcopy(held))))


@pytest.mark.parametrize(
    ("forward", "held"),
    [
        (biased, {"bias": torch.zeros(2048, 2048)}),
        (flipped, {"flip": torch.tensor(False)}),
        (by(lambda g: g), {"gamma": gamma(-0.7)}),
    ],
    ids=["bias_of_zero", "switch_off", "negative_factor"],
)
def test_what_a_buffer_or_a_sign_does_not_change_is_converted(forward, held):
    model = nn.Sequential(Attention(forward, **held))
    x = torch.randn(2, 8, 16, 16)
    before = model(x)
    assert nl.convert_nonlocal_(model).converted
    assert_near(model(x), before, sums=1000)


def test_a_mask_without_values_cannot_be_proved():
    with torch.device("meta"):
        module = Attention(masked, mask=torch.ones(9, 9, dtype=torch.bool))
    assert re.search("its mask does cannot be seen on the meta device", left(module))


# Other arguments


class Given(Attention):
    def __init__(self, looks):
        super().__init__(None)
        self.looks = looks

    def forward(self, x, emb=None, times=1.0):
        y = self.attend(x)
        return x + times * (3 * y if emb is not None and self.looks(emb) else y)


LOOKS = {
    "width": lambda emb: emb.shape[-1] == 77,
    "rank": lambda emb: emb.dim() == 4,
    "type": lambda emb: emb.dtype == torch.long,
    "a number": lambda emb: isinstance(emb, int),
    "a word": lambda emb: emb == "causal",
}


@pytest.mark.parametrize("looks", LOOKS.values(), ids=[name.replace(" ", "_") for name in LOOKS])
def test_an_argument_that_is_looked_at_is_not_passed_over(looks):
    model = nn.Sequential(Given(looks))
    assert nl.convert_nonlocal_(model).converted
    with pytest.raises(ValueError, match="map alone; got emb too"):
        model[0](torch.randn(2, 8, 5, 5), torch.zeros(2, 77))


def test_an_argument_that_nobody_looks_at_is_passed_over_and_defaults_ask_for_nothing():
    model = nn.Sequential(Given(lambda emb: False))
    x = torch.randn(2, 8, 5, 5)
    before = model[0](x, torch.zeros(2, 77))
    nl.convert_nonlocal_(model)
    assert_near(model[0](x, torch.zeros(2, 77)), before)
    assert_near(model[0](x, None, 1.0), before)
    with pytest.raises(ValueError, match="got times too"):
        model[0](x, times=2.0)


class Switched(Attention):
    def __init__(self):
        super().__init__(None)

    def forward(self, x, causal=False, residual=True):
        return self.attend(x) * (2 if causal else 1) + (x if residual else 0)


def test_a_turned_switch_is_refused_by_name():
    model = nn.Sequential(Switched())
    x = torch.randn(2, 8, 5, 5)
    before = model(x)
    nl.convert_nonlocal_(model)
    block = copy.deepcopy(model)[0]
    assert "theta.weight" in block.state_dict()
    for same in (block(x, False), block(x, False, True), block(x, residual=True), block(x, causal=None)):
        assert_near(same, before)
    for args, named in (((True,), {}), ((), {"causal": True}), ((1,), {})):
        with pytest.raises(ValueError, match="has no switch causal; got causal="):
            block(x, *args, **named)
    with pytest.raises(ValueError, match="no switch residual; got residual=False"):
        block(x, residual=False)
