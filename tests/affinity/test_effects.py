"""Effects of attended positions on a score, beside finite differences of the term itself."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.affinity import class_effects
from nonlocalnn.functional import INSTANTIATIONS
from nonlocalnn.functional.geometry import Geometry
from tolerances import assert_near


class Head(nn.Module):
    """Scores of a block's output; works in place, as many networks do."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        z = self.block(x)
        return self.fc(z.relu_().flatten(2).square().mean(2))


def scores_with_term(model, x, query, key, size):
    """Scores when the term of one pair is made (1 + size) times as large, by the explicit formula."""
    block, batch, sides = model.block, x.shape[0], tuple(x.shape[2:])
    weights = block.affinity(x)
    _, _, g = block.embed(x)
    # In the first group, where query 0 of the map is query 0 of its group.
    factor = torch.ones_like(weights)
    factor[:: len(weights) // batch, query, key] += size
    y = Geometry(sides, block.extent).ungroup((weights * factor) @ g, batch)
    z = block.W_z(y.transpose(1, 2).unflatten(2, sides))
    z = x + (z if block.norm is None else block.norm(z))
    return model.fc(z.relu().flatten(2).square().mean(2))


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize(
    ("kind", "settings", "shape"),
    [
        (nl.NonLocal1d, {}, (9,)),
        (nl.NonLocal2d, {"norm": None}, (4, 5)),
        (nl.NonLocal3d, {"extent": "space"}, (3, 4, 2)),
    ],
    ids=["1d", "2d", "3d"],
)
def test_effects_are_derivatives_of_the_score(kind, settings, shape, instantiation):
    model = randomize_(Head(kind(4, instantiation=instantiation, **settings))).double().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(2, 4, *shape, dtype=torch.float64)
    effects = class_effects(model, x, target=1)["block"]
    first = tuple(0 for _ in shape)
    row = effects.rows([first])[:, 0].flatten(1).double()
    size = 1e-5
    for key in (0, 1):
        more, less = (scores_with_term(model, x, 0, key, sign * size)[:, 1] for sign in (1, -1))
        # Rows are in float32; the two scores cancel up to 1e-5 of them.
        slope = (more - less) / (2 * size)
        assert_near(row[:, key], slope, dtype=torch.float32, largest=1.0)


def test_target_and_hooks():
    model = randomize_(nl.create_model("nl_digits")).eval()
    x = torch.rand(1, 1, 28, 28)
    best = int(model(x).argmax())
    chosen = class_effects(model, x)["nl_1"].rows([(3, 4)])
    assert_near(chosen, class_effects(model, x, target=best)["nl_1"].rows([(3, 4)]))
    other = class_effects(model, x, target=(best + 1) % 10, blocks=["nl_1"])
    assert list(other) == ["nl_1"]
    assert not torch.allclose(other["nl_1"].rows([(3, 4)]), chosen)
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_wrong_calls():
    model = nl.create_model("nl_digits")
    x = torch.rand(1, 1, 28, 28)
    with pytest.raises(ValueError, match=r"put the model into eval mode first, model\.eval\(\)"):
        class_effects(model, x)
    model.eval().nl_1.norm.train()
    with pytest.raises(ValueError, match="effects need fixed norms"):
        class_effects(model, x)
    model.eval()
    with pytest.raises(ValueError, match="target must be a class from 0 to 9; got 10"):
        class_effects(model, x, target=10)
    with pytest.raises(ValueError, match="no non-local block 'nl_9'"):
        class_effects(model, x, blocks=["nl_9"])
    with pytest.raises(ValueError, match=r"effects are on class scores \(B, K\)"):
        class_effects(nl.NonLocal2d(2).eval(), torch.rand(1, 2, 3, 3))
