"""Maps of blocks with heads, masks and a context; and what a query's keys do to a score there."""

import pytest
import torch
from torch import nn

from helpers import randomize_
from nonlocalnn import NonLocal2d, NonLocal3d, capture_affinity, real_positions
from nonlocalnn.affinity import class_effects, summarise
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near

C = 8
forms = pytest.mark.parametrize("instantiation", INSTANTIATIONS)


class Network(nn.Module):
    """A block that may read a context, and scores."""

    def __init__(self, block, context=None, mask=None):
        super().__init__()
        self.block, self.context, self.mask = block, context, mask
        self.scores = nn.Linear(C, 3, dtype=torch.float64)

    def forward(self, x):
        return self.scores(self.block(x, self.context, key_mask=self.mask).flatten(2).mean(2))


def made(kind=NonLocal2d, **settings):
    return randomize_(kind(C, num_heads=2, **settings)).double().eval()


@forms
def test_a_map_is_the_mean_of_its_heads(instantiation):
    block, x = made(instantiation=instantiation), torch.randn(2, C, 6, 5, dtype=torch.float64)
    mask = torch.zeros(2, 6, 5, dtype=torch.bool)
    mask[0], mask[1, :5, :3] = True, True
    network = Network(block, mask=mask)
    with capture_affinity(network) as maps, torch.no_grad():
        network(x)
    shown, expected = maps["block"], block.affinity(x, key_mask=mask)
    assert expected.shape == (2, 2, 30, 6)
    assert_near(shown.affinity, expected.mean(1))
    for head in range(2):
        assert_near(shown.of_head(head).affinity, expected[:, head])
        assert_near(shown.of_head(head).of_query(3, 2).flatten(1), expected[:, head, 17])
    # The second sample's keys in rows 0 and 1 of the first column are real.
    assert not shown.affinity.unflatten(2, (3, 2))[1, :, 2].any()
    assert not shown.affinity.unflatten(2, (3, 2))[1, :, :, 1].any()
    with pytest.raises(ValueError, match="head must be one of 0, 1; got 2"):
        shown.of_head(2)
    assert summarise(shown).attended.shape == (2, 3, 2)


@pytest.mark.parametrize("extent", ["space", "time", 2])
def test_groups_have_masks_of_their_own(extent):
    block, x = made(NonLocal3d, extent=extent), torch.randn(2, C, 4, 5, 3, dtype=torch.float64)
    network = nn.Sequential(block)
    with (
        capture_affinity(network) as maps,
        real_positions([(4, 5, 3), (2, 4, 2)], (4, 5, 3)),
        torch.no_grad(),
    ):
        network(x)
        expected = block.affinity(x)
    shown = maps["0"]
    assert_near(shown.affinity, expected.mean(1))
    row = shown.of_query(3, 4, 2)
    assert row[0].any()
    # The last frame, or the place in it, is padding in the second sample.
    assert not row[1].any()


def test_a_context_has_places_of_its_own():
    block, x = made(context_channels=5), torch.randn(2, C, 6, 5, dtype=torch.float64)
    context = torch.randn(2, 5, 9, 4, dtype=torch.float64)
    network = Network(block, context)
    with capture_affinity(network) as maps, torch.no_grad():
        network(x)
    shown = maps["block"]
    assert shown.key_grid.sides == (4, 2)
    assert_near(shown.affinity, block.affinity(x, context).mean(1))


def test_windows_widen_the_boxes_of_keys():
    network = nn.Sequential(nn.Conv2d(1, C, 3, 2, 1), randomize_(NonLocal2d(C, pool_size=(1, 3))))
    with capture_affinity(network) as maps, torch.no_grad():
        network(torch.randn(1, 1, 12, 24))
    assert maps["1"].key_grid.sides == (6, 4)
    assert maps["1"].key_grid.steps == (2.0, 6.0)
    assert maps["1"].key_grid.centres == (0.5, 2.5)


@pytest.mark.parametrize("with_context", [False, True])
@forms
def test_effects_sum_to_what_y_does(instantiation, with_context):
    other = C if instantiation == "gaussian" else 5
    block = made(instantiation=instantiation, norm=None, context_channels=other if with_context else None)
    context = torch.randn(2, other, 4, 3, dtype=torch.float64) if with_context else None
    sides = (4, 3) if with_context else (3, 2)
    mask = torch.ones(2, *sides, dtype=torch.bool)
    mask[1, -1] = False
    network, x = Network(block, context, mask).eval(), torch.randn(2, C, 3, 2, dtype=torch.float64)
    effects = class_effects(network, x, target=1)["block"]
    rows = effects.rows([(row, column) for row in range(3) for column in range(2)])
    # Scores are linear in y here: they lose the sum of all effects where y is zero.
    without = network.scores((x + block.W_z.bias[:, None, None]).flatten(2).mean(2))
    lost = (network(x) - without)[:, 1]
    largest = float(rows.abs().max())
    assert_near(rows.flatten(1).sum(1).double(), lost.detach(), dtype=torch.float32, largest=largest)


def test_effects_need_a_norm_that_is_linear():
    network, x = Network(made(norm="group")).eval(), torch.randn(2, C, 3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^block 'block' has no effects: its GroupNorm makes z no linear"):
        class_effects(network, x)
