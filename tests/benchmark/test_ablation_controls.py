"""Controls in the blocks' places: their formulas, their sizes, and runs of them."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.ablation.controls import (
    CONTROLS,
    GlobalContext,
    MeanContext,
    SqueezeExcitation,
    replace_blocks_,
)
from benchmarks.ablation.runs import ChangedTask, ablate, plan
from benchmarks.ablation.variants import tables
from helpers import randomize_
from nonlocalnn import NonLocal2d, NonLocal3d, nonlocal_blocks, real_positions
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.data import cue
from nonlocalnn.models import create_model
from nonlocalnn.models.cost import cost
from nonlocalnn.train import Recipe, train
from tolerances import assert_near


def block_of(norm, **settings):
    torch.manual_seed(0)
    return randomize_(NonLocal3d(12, zero_init=False, norm=norm, **settings)).double()


def even_block(norm, training):
    """Return a block whose logits are equal everywhere, as theta is 0, and a map."""
    block = block_of(norm, sub_sample=None).train(training)
    nn.init.zeros_(block.theta.weight)
    nn.init.zeros_(block.theta.bias)
    return block, torch.randn(2, 12, 3, 5, 4, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["batch", "layer", None])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_mean_is_a_block_that_weighs_all_positions_alike(norm, training):
    block, x = even_block(norm, training)
    expected = block(x)
    assert_near(MeanContext(block)(x), expected)
    assert (expected - x).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_mean_of_a_padded_map_is_that_of_its_real_positions(norm, training):
    block, x = even_block(norm, training)
    with real_positions([(3, 5, 4), (2, 4, 1)], canvas=(3, 5, 4)):
        expected, found = block(x), MeanContext(block)(x)
    real = torch.zeros(2, 3, 5, 4, dtype=torch.bool)
    real[0], real[1, :2, :4, :1] = True, True
    assert_near(found.movedim(1, -1)[real], expected.movedim(1, -1)[real])
    assert (found - MeanContext(block)(x))[1].abs().max() > 0.01


def test_squeeze_and_excitation_by_loops():
    control = SqueezeExcitation(block_of("batch")).double()
    x = torch.randn(2, 12, 3, 5, 4, dtype=torch.float64)
    z = control(x)
    for sample, found in zip(x, z, strict=True):
        means = torch.stack([channel.sum() / 60 for channel in sample])
        hidden = F.relu(control.squeeze.weight.flatten(1) @ means + control.squeeze.bias)
        gates = 1 / (1 + torch.exp(-(control.excite.weight.flatten(1) @ hidden + control.excite.bias)))
        assert_near(found, torch.stack([gate * channel for gate, channel in zip(gates, sample, strict=True)]))


def test_the_global_context_by_loops():
    control = randomize_(GlobalContext(block_of("batch"))).double()
    x = torch.randn(2, 12, 3, 5, 4, dtype=torch.float64)
    z = control(x)
    for sample, found in zip(x, z, strict=True):
        positions = sample.flatten(1).T
        weights = torch.exp(positions @ control.W_k.weight.flatten() + control.W_k.bias)
        context = sum(w * each for w, each in zip(weights / weights.sum(), positions, strict=True))
        hidden = control.squeeze.weight.flatten(1) @ context + control.squeeze.bias
        hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + control.norm.eps).sqrt()
        hidden = F.relu(control.norm.weight * hidden + control.norm.bias)
        added = control.excite.weight.flatten(1) @ hidden + control.excite.bias
        assert_near(found, sample + added[:, None, None, None])
    assert (z - x).abs().max() > 0.01


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(("table", "num_blocks"), [("cue", 2), ("segment-cue", 1)])
def test_controls_stand_where_the_blocks_did(control, table, num_blocks):
    model = next(variant.model for variant in tables(table)["controls"] if variant.control == control)
    network, plain = create_model(model, num_classes=3), create_model(model, num_classes=3)
    replace_blocks_(network, control)
    assert not nonlocal_blocks(network)
    places = list(nonlocal_blocks(plain))
    assert len(places) == num_blocks
    assert all(type(network.get_submodule(place)) is CONTROLS[control] for place in places)
    shape = (2, 3, 8, 16, 16) if table == "cue" else (2, 3, 32, 32)
    assert network(torch.rand(shape)).shape == plain(torch.rand(shape)).shape
    # No rival is small: the mean has all of the block but theta and phi, the others as much as the block.
    mine, theirs = (sum(each.numel() for each in model.parameters()) for model in (network, plain))
    gaussian = create_model(model, num_classes=3, instantiation="gaussian")
    if control == "mean":
        assert mine == sum(each.numel() for each in gaussian.parameters())
    else:
        assert mine == pytest.approx(theirs, rel=0.003)
    assert cost(network, shape).flops < cost(plain, shape).flops


def test_networks_of_the_legend_are_those_of_the_other_scenes(tmp_path):
    words = ["--config", "segment-legend", "--output", str(tmp_path)]
    recipe, _ = RecipeParser(program="train", description="", example="").parse_words(words)
    rows = {variant.name: each for variant, each in plan(recipe, table="controls", num_seeds=1)}
    networks = [(each.model, each.model_overrides) for each in rows.values()]
    assert networks == [
        ("fcn_tiny", {}),
        ("nl_fcn_tiny", {}),
        *(("nl_fcn_tiny", {"instantiation": form}) for form in ("dot_product", "embedded_gaussian")),
    ]
    assert len({each.output for each in rows.values()}) == len(rows)


def test_what_cannot_be_replaced():
    with pytest.raises(ValueError, match=r"control must be one of 'mean'.*did you mean 'mean'"):
        replace_blocks_(create_model("nl2_c2d_tiny"), "means")
    with pytest.raises(ValueError, match="no non-local block to replace"):
        replace_blocks_(create_model("c2d_tiny"), "mean")
    model = nn.Sequential(NonLocal2d(8))
    with pytest.raises(ValueError, match="only the mean can start as the identity, and 0 do: set zero_init"):
        replace_blocks_(model, "squeeze-excitation")
    assert nonlocal_blocks(model)
    replace_blocks_(model, "mean")
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(model(x), x)


@pytest.fixture
def few_clips(monkeypatch):
    for split, number in {"train": 32, "validation": 10, "test": 10}.items():
        monkeypatch.setitem(cue.NUM_SAMPLES, split, number)


def test_a_run_that_was_stopped_goes_on_and_is_tested(tmp_path, few_clips):
    control = "global-context"
    settings = {"data": "cue", "model": "nl2_c2d_tiny", "batch_size": 16, "image_size": 16, "device": "cpu"}
    recipe = Recipe(**settings, epochs=2, output=tmp_path / "run")

    class Stopped(ChangedTask):
        """One that is interrupted at the end of its second epoch."""

        validated = 0

        def evaluate(self, model, data, **settings):
            self.validated += 1
            if self.validated == 2:
                raise KeyboardInterrupt
            return self._task.evaluate(model, data, **settings)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, task=Stopped(recipe, control=control), progress=False)
    result = train(recipe, task=ChangedTask(recipe, control=control), resume=True, progress=False)
    assert result.steps == 4
    whole = Recipe(**settings, epochs=2, output=tmp_path / "whole")
    again = train(whole, task=ChangedTask(whole, control=control), progress=False)
    assert again.test["loss"] == result.test["loss"]


@pytest.mark.slow
def test_the_rows_of_controls_are_runs_of_their_own(tmp_path, few_clips):
    base = Recipe(data="cue", batch_size=16, image_size=16, epochs=1, device="cpu", output=tmp_path)
    growing = ablate(base, table="controls", num_seeds=1, progress=False)
    rows = [next(growing) for _ in range(6)][-1]
    assert [row.variant for row in rows[3:]] == [
        "mean over positions", "squeeze-and-excitation", "global context block"
    ]  # fmt: skip
    for name in CONTROLS:
        metrics = tmp_path / f"nl2_c2d_tiny-control-{name}" / "seed-0/metrics.json"
        assert json.loads(metrics.read_text())["parameters"] in {row.parameters for row in rows[3:]}
