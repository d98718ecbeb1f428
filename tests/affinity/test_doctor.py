"""Whether blocks are used: networks whose blocks are planted, a verdict each, and no other."""

from dataclasses import replace

import pytest
import torch
from planted_network import LENGTH, MARK, OUT, REAL, SURE, VALUE, Reader, batches, blindly, loss
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn import NonLocal1d, NonLocal3d
from nonlocalnn.affinity import Change, examine
from nonlocalnn.affinity.block_measures import evened, sums_of
from nonlocalnn.affinity.verdicts import BlockFindings, Examination
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near, near


def one(found):
    (block,) = found.blocks
    return block


def test_a_block_that_looks_where_the_answer_is_is_healthy():
    found = examine(Reader(looks_at={MARK: SURE}), batches(), loss)
    block = one(found)
    assert (block.verdict, block.advice) == ("healthy", None)
    assert found.figures["accuracy"] == 1.0
    assert found.num_samples == 42
    assert block.entropy < 0.01
    assert block.num_keys == LENGTH
    assert block.padding is None
    # Without it there is no answer, and with a mean the marked value is one of many.
    assert block.without.loss > 0.5
    assert block.even.figures["accuracy"] < -0.2
    assert str(found).count("what to try") == 1
    assert "nothing: its blocks are used" in str(found)


def test_a_block_that_adds_nothing_was_never_trained():
    block = one(examine(Reader(looks_at={MARK: SURE}, writes=0.0), batches(), loss))
    assert block.verdict == "never trained"
    assert (block.added, block.W_z, block.without.loss) == (0.0, 0.0, 0.0)
    assert "optimiser" in block.advice
    # With W_z = 0 a gradient reaches W_z alone; there is no other layer to compare it with.
    assert block.gradients == {}


def test_a_block_that_weighs_all_alike_could_be_a_mean():
    block = one(examine(Reader(looks_at={}), batches(answer="mean"), loss))
    assert block.verdict == "even attention"
    assert block.entropy == near(1.0)
    assert block.even.loss == near(0.0, largest=1.0)
    assert block.even.answers == 0.0
    assert block.without.loss > 0.5
    assert "a mean over all positions would do" in block.advice


def test_a_block_that_chooses_to_no_purpose_could_be_a_mean_as_well():
    # All weight on one key of many that say the same: the loss, and not the entropy, tells.
    block = one(examine(Reader(looks_at={MARK: SURE}, reads=REAL), batches(answer="always"), loss))
    assert block.entropy < 0.01
    assert block.verdict == "even attention"


@pytest.mark.parametrize("told", [False, True])
def test_weight_on_padding_is_told_and_goes_when_the_network_knows_what_is_real(told):
    model, data = Reader(looks_at={REAL: -SURE}), batches(padded=True, answer="mean")
    block = one(examine(model, data, loss if told else blindly))
    assert 0.3 < block.padded_keys < 0.6
    assert block.padding == near(0.0 if told else 1.0)
    assert block.verdict == ("even attention" if told else "attends to padding")
    assert ("nl.real_positions" in block.advice) is not told


def test_a_block_that_spoils_an_answer_hurts():
    block = one(examine(Reader(looks_at={MARK: SURE}), batches(answer="own", number=12), loss))
    assert block.verdict == "hurts"
    assert block.without.loss < -0.5
    assert "nl.remove_nonlocal_" in block.advice


def test_a_block_whose_output_nobody_reads_makes_no_difference():
    model = Reader(looks_at={MARK: SURE})
    with torch.no_grad():
        model.block.W_z.weight.zero_()[VALUE] = 1.0
    block = one(examine(model, batches(answer="own"), loss))
    assert block.added > 0.1
    assert block.verdict == "makes no difference"


def test_the_rules_in_numbers():
    same, better = Change(1.0, 1.0, 0.1, {}, 0.0), Change(1.0, 0.5, 0.1, {}, 0.4)
    worse, slightly = Change(1.0, 2.0, 0.1, {}, 0.4), Change(1.0, 1.05, 0.1, {}, 0.1)
    usual = {"added": 0.2, "padding": None, "entropy": 0.5, "without": worse, "even": worse}
    cases = [
        ({}, "healthy"),
        ({"added": 0.0009}, "never trained"),
        ({"added": 0.001}, "healthy"),
        ({"padding": 0.1}, "attends to padding"),
        ({"padding": 0.09}, "healthy"),
        ({"entropy": 0.97, "even": slightly}, "even attention"),
        ({"entropy": 0.97}, "healthy"),
        ({"even": Change(1.0, 1.09, 0.01, {}, 0.04)}, "even attention"),
        ({"even": Change(1.0, 1.11, 0.01, {}, 0.04)}, "healthy"),
        ({"without": better}, "hurts"),
        ({"without": same}, "makes no difference"),
        ({"without": slightly}, "unclear"),
        ({"without": Change(1.0, 1.0, 0.1, {}, 0.05)}, "makes no difference"),
        ({"without": Change(1.0, 1.0, 0.1, {}, None)}, "makes no difference"),
        ({"even": Change(1.0, 1.01, 0.1, {}, 0.06)}, "healthy"),
        ({"even": Change(1.0, 1.01, 0.1, {}, None)}, "even attention"),
        ({"without": same, "entropy": None, "even": same}, "makes no difference"),
    ]
    for changed, verdict in cases:
        values = {**usual, **changed}
        found = BlockFindings(
            name="0", instantiation="gaussian", W_z=1.0, gamma=None, num_keys=5.0, padded_keys=0.5,
            gradients={"g": 1.0}, **values,
        )  # fmt: skip
        assert found.verdict == verdict, changed
        assert (found.advice is None) is (verdict == "healthy")
        assert f": {verdict}\n" in found.in_words()


def test_a_block_whose_rectifiers_are_closed_is_not_said_to_see_one_key():
    torch.manual_seed(0)
    block = randomize_(NonLocal1d(4, instantiation="concatenation", norm=None))
    with torch.no_grad():
        block.theta.bias.copy_(-100.0 * block.w_f.chunk(2)[0])
    model = nn.Sequential(block, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    found = one(examine(model, batches(), loss))
    assert found.entropy is None
    assert f"gives each of {LENGTH // 2} keys a weight of 0" in found.in_words()
    assert "all its weights are 0" in found.advice
    assert "start_from_scratch" in found.advice
    with torch.no_grad():
        block.theta.bias.zero_()
    found = one(examine(model, batches(), loss))
    assert "weight of 0" not in found.in_words()
    assert "weights are 0" not in (found.advice or "")


WORSE, BETTER = Change(1.0, 2.0, 0.1, {}, 0.4), Change(1.0, 0.5, 0.1, {}, 0.4)
SLIGHTLY = Change(1.0, 1.05, 0.1, {}, 0.1)


@pytest.mark.parametrize(
    ("changed", "is_told"),
    [
        ({}, True),
        ({"entropy": 0.051}, False),
        ({"entropy": None}, False),
        ({"gradients": {"theta": 0.11, "phi": 0.1, "g": 1.0}}, False),
        ({"gradients": {"theta": 0.1, "phi": 0.11, "g": 1.0}}, False),
        ({"gradients": {"theta": 0.0, "phi": 0.0, "g": 1.0}}, True),
        ({"gradients": {"theta": 0.0, "phi": 0.0, "g": 0.0}}, False),
        ({"gradients": {"g": 1.0}}, False),
        ({"instantiation": "dot_product"}, False),
        ({"without": BETTER}, True),
        ({"without": BETTER, "even": BETTER}, True),
        ({"without": SLIGHTLY}, True),
        ({"without": WORSE}, True),
        ({"added": 0.0}, False),
        ({"padding": 0.5}, False),
        ({"without": WORSE, "even": WORSE}, False),
    ],
    ids=str,
)
def test_attention_that_has_settled_to_no_use_is_told_so(changed, is_told):
    same = Change(1.0, 1.0, 0.1, {}, 0.0)
    usual = {"added": 0.2, "padding": None, "entropy": 0.05, "without": same, "even": same}
    usual["instantiation"] = "embedded_gaussian"
    values = {"gradients": {"theta": 0.1, "phi": 0.1, "g": 1.0}, **usual, **changed}
    found = BlockFindings(
        name="0",
        W_z=1.0,
        gamma=None,
        num_keys=5.0,
        padded_keys=0.5,
        **values,
    )
    advice = found.advice or ""
    assert ("--embeddings-lr" in advice) is is_told
    if is_told:
        others = replace(found, gradients={}).advice
        assert advice.endswith(f"; else {others}")


def test_a_block_without_use_whose_logits_are_large_has_settled():
    torch.manual_seed(1)
    # Sure of its key, as a product of large embeddings is, and nobody reads what it writes.
    block = randomize_(NonLocal1d(4, sub_sample=None, use_scale=False, norm=None))
    with torch.no_grad():
        block.theta.weight.mul_(200.0)
        block.phi.weight.mul_(200.0)
    model = nn.Sequential(block, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    found = one(examine(model, batches(), loss))
    assert found.entropy < 0.05
    assert "settled on single keys" in found.advice
    with torch.no_grad():
        block.theta.weight.div_(200.0)
        block.phi.weight.div_(200.0)
    assert "settled" not in (one(examine(model, batches(), loss)).advice or "")


@pytest.mark.parametrize(("added", "said"), [(0.0, "0 %"), (0.023, "2.3 %"), (0.99, "99 %"), (1.18, "118 %")])
def test_what_a_block_adds_in_words(added, said):
    same = Change(1.0, 1.0, 0.1, {}, 0.0)
    found = BlockFindings("0", "gaussian", added, 1.0, None, 5.0, 0.5, None, None, same, same, {})
    assert f"adds {said} of its input's size" in found.in_words()


def test_a_block_that_chooses_and_whose_mean_holds_the_network_together_is_healthy():
    class Held(Reader):
        def forward(self, x):
            z = self.block(x)
            score = 4 * z[:, OUT, 0] - 50 * (1 - z[:, MARK, 0])
            return torch.stack([-score, score], 1)

    model = Held(looks_at={MARK: SURE / 2}, inter_channels=2)
    with torch.no_grad():
        model.block.g.weight.zero_()
        model.block.g.weight[0, VALUE] = model.block.g.weight[1, REAL] = 1.0
        model.block.W_z.weight.zero_()
        model.block.W_z.weight[OUT, 0] = model.block.W_z.weight[MARK, 1] = 1.0
    block = one(examine(model, batches(), loss))
    # A hundredth of what leaving it out costs, and three answers of ten.
    assert 0.3 < block.even.loss < block.without.loss / 50
    assert block.even.answers > 0.2
    assert block.verdict == "healthy"


class Single(Reader):
    def forward(self, x):
        return super().forward(x[..., :1])


def test_a_block_that_sees_one_key_is_told_to_move():
    block = one(examine(Single(looks_at={}, reads=REAL), batches(answer="always"), loss))
    assert (block.entropy, block.verdict) == (None, "even attention")
    assert "put it at an earlier stage" in block.advice


@pytest.mark.parametrize("worst", [torch.nan, torch.inf])
def test_a_network_that_breaks_without_its_block_needs_it(worst):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = Reader(looks_at={MARK: SURE})

        def forward(self, x):
            scores = self.reader(x)
            return torch.where(scores.detach().abs().sum() > 0.01, scores, worst)

    found = examine(Broken(), batches(), lambda model, batch: (model(batch[0]).abs().mean(), {}))
    block = one(found)
    assert block.without.loss == torch.inf
    assert block.verdict == "healthy"
    assert "without it: loss +inf" in str(found)


def test_answers_are_those_of_real_positions():
    class EachStep(Reader):
        def forward(self, x):
            score = SURE * self.block(x)[:, OUT]
            return torch.stack([-score, score], 1)

    def each_loss(model, batch):
        return model(batch[0])[:, 0].square().mean(), {}

    # Without the block all scores are alike and the first class is taken; the values are above 0 here.
    data = [[sample.abs(), targets, sizes] for sample, targets, sizes in batches(padded=True)]
    block = one(examine(EachStep(looks_at={MARK: SURE}), data, each_loss))
    assert block.without.answers == 1.0
    assert block.even.answers == 0.0


def test_few_batches_tell_less():
    # Differences of 1 and 3: their mean is 2, and its standard error 1.
    def shifting(model, batch):
        with_block = bool(model(batch[0]).abs().sum() > 1)
        return torch.tensor(0.0 if with_block else float(batch[1][0])), {}

    sample = batches()[0][0]
    model = Reader(looks_at={MARK: SURE})

    def error(*differences):
        data = [[sample, torch.tensor([each])] for each in differences]
        return one(examine(model, data, shifting)).without

    assert error(1, 3).error == near(6.98)
    assert not error(1, 3).counts
    assert error(*[1, 3] * 32).error == near(64**0.5 / 63**0.5 / 8 * (1 + 1.4 / 63))
    # Eight are the last of the table, and nine go by the formula: no step between them.
    assert error(*[1, 3] * 4).error > error(*[1, 3] * 4, 2).error


@pytest.mark.parametrize(("number", "rise", "said"), [(2, 0.5, 1), (2, -0.5, 0), (2, 0.0, 0), (1, 0.5, 0)])
def test_blocks_that_matter_together_are_not_all_left_out(number, rise, said):
    same = Change(1.0, 1.0, 0.1, {}, 0.0)
    block = BlockFindings("0", "gaussian", 1.0, 1.0, None, 5.0, 0.5, None, None, same, same, {})
    assert block.verdict == "makes no difference"
    together = Change(1.0, 1.0 + rise, 0.1, {}, 0.0)
    found = Examination(9, 1.0, {}, [replace(block, name=str(each)) for each in range(number)], together, [])
    assert str(found).count("leave out one of 0, 1: together they matter") == said


def test_what_counts_as_a_change():
    assert not Change(1.0, 1.009, 0.0, {}, None).counts
    assert Change(1.0, 1.011, 0.0, {}, None).counts
    assert not Change(1.0, 0.91, 0.05, {}, None).counts
    assert Change(1.0, 0.89, 0.05, {}, None).counts
    assert not Change(0.001, 0.0019, 0.0, {}, None).counts


def test_blocks_of_a_network_and_their_gradients():
    torch.manual_seed(0)
    model = nl.create_model("nl2_c1d_tiny", num_classes=2, in_channels=4)
    with torch.no_grad():
        model.layer2[0].nl.norm.weight.zero_()
    found = examine(model, batches(), loss)
    assert [block.name for block in found.blocks] == ["layer2.0.nl", "layer3.0.nl"]
    first, second = found.blocks
    assert first.verdict == "never trained"
    assert list(second.gradients) == ["theta", "phi", "g", "W_z", "norm"]
    # Behind gamma = 0 no layer learns but the norm.
    assert [name for name, size in first.gradients.items() if size > 0] == ["norm"]
    assert (first.gamma, first.without.loss) == (0.0, 0.0)
    assert "without any block" in str(found)
    assert found.to_dict()["blocks"][0]["verdict"] == "never trained"


def test_a_block_that_no_gradient_reaches_is_told_so():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.last = NonLocal1d(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.block(x).detach().mean(2))

    block = one(examine(Cut(), batches(), loss))
    assert block.verdict == "never trained"
    assert "no gradient reaches it" in block.advice


SETTINGS = [
    (kind, sides, {"instantiation": instantiation, **given})
    for instantiation in INSTANTIATIONS
    for kind, sides, given in (
        (NonLocal1d, (9,), {"norm": "group"}),
        (NonLocal1d, (9,), {"num_heads": 2, "sub_sample": None}),
        (NonLocal3d, (4, 3, 6), {"extent": "space", "norm": None}),
    )
]


@pytest.mark.parametrize(("kind", "sides", "given"), SETTINGS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_even_weights_are_the_means_of_rows(kind, sides, given, masked):
    """By the affinity itself: each row becomes its own mean, and then all is computed as the block does."""
    torch.manual_seed(0)
    block = randomize_(kind(4, **given)).double().eval()
    x = torch.randn(2, 4, *sides).double()
    mask = torch.rand(2, *sides) < 0.7 if masked else None
    named = {} if mask is None else {"key_mask": mask}
    _, _, g, keys = block.operands(x, **named)
    rows = block.affinity(x, **named)
    rows = rows.unsqueeze(1) if block.num_heads == 1 else rows
    real = torch.ones(g.shape[:2], dtype=torch.bool) if keys is None else keys
    even = rows.sum(3, keepdim=True) / real.sum(1).view(-1, 1, 1, 1) * real[:, None, None]
    y = even @ g.unflatten(2, (block.num_heads, -1)).transpose(1, 2)
    y = y.transpose(1, 2).flatten(2)
    y = y.reshape(2, -1, y.shape[2]).transpose(1, 2).unflatten(2, sides)
    z = block.W_z(y)
    if given.get("norm") == "group" and masked:
        z = nl.functional.norms.group_norm(
            z, mask, block.norm.num_groups, block.norm.weight, block.norm.bias, block.norm.eps
        )
    elif block.norm is not None:
        z = block.norm(z)
    with torch.no_grad():
        assert_near(evened(block, (x,), named, None), (x + z).detach(), sums=100)


def test_sums_of_a_padded_map_are_of_what_is_real():
    torch.manual_seed(0)
    block = randomize_(NonLocal1d(4, instantiation="gaussian", sub_sample="after")).eval()
    x, real = torch.randn(2, 4, 10), torch.arange(10) < torch.tensor([[10], [5]])
    with torch.no_grad():
        found = sums_of(block, (x,), {}, block(x), real)
        rows = block.affinity(x)
    # A pooled key that holds one real step of two is no padding: of five keys the last two are.
    on_padding = rows[1, :5, 3:].sum()
    assert found["rows"] == 15
    assert found["padded"] == near(5 * 2 / 5)
    assert found["on padding"] == near(float(on_padding))
    assert found["given"] == near(float(x[0].square().sum() + x[1, :, :5].square().sum()), sums=100)
