"""New blocks are in the optimiser, and one sees whether they learnt."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from foreign_networks import small_resnet
from helpers import randomize_
from nonlocalnn.surgery.insertion import insert_nonlocal_

GATES = {"norm.weight", "norm.bias"}


def test_every_parameter_is_in_one_group():
    model, _ = small_resnet(after=["layer2.0", "layer3"])
    model.conv1.weight.requires_grad_(False)
    plain, norms, new, new_norms = nl.param_groups(model, 0.01, new_lr=0.1, weight_decay=0.5)
    listed = [id(each) for group in (plain, norms, new, new_norms) for each in group["params"]]
    assert sorted(listed) == sorted(id(each) for each in model.parameters())
    names = {id(each): name for name, each in model.named_parameters()}

    def named(group):
        return {names[id(each)] for each in group["params"]}

    assert (plain["lr"], norms["lr"], new["lr"], new_norms["lr"]) == (0.01, 0.01, 0.1, 0.1)
    decays = [group["weight_decay"] for group in (plain, norms, new, new_norms)]
    assert decays == [0.5, 0.0, 0.5, 0.0]
    assert named(new_norms) == {f"{site}.nl.{gate}" for site in ("layer2.0", "layer3") for gate in GATES}
    assert {"layer2.0.nl.theta.bias", "layer3.nl.W_z.weight"} <= named(new)
    assert {"fc.bias", "conv1.weight"} <= named(plain)
    assert {"bn1.weight", "layer2.0.downsample.1.bias"} <= named(norms)
    assert all(group["lr"] == 0.01 for group in nl.param_groups(model, 0.01))


def test_groups_of_a_network_without_blocks():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True))
    assert [len(group["params"]) for group in nl.param_groups(model, 0.1)] == [2, 4]
    with pytest.raises(ValueError, match="new_lr is for non-local blocks"):
        nl.param_groups(model, 0.1, new_lr=0.2)
    with pytest.raises(ValueError, match="embeddings_lr is for theta and phi"):
        nl.param_groups(model, 0.1, embeddings_lr=0.2)


@pytest.mark.parametrize("times", [0.2, 3.0])
@pytest.mark.parametrize("new_lr", [None, 0.7, 0.0])
def test_embeddings_have_a_part_of_the_rate_of_the_blocks(new_lr, times):
    model, _ = small_resnet(after=["layer2.0", "layer3"])
    names = {each: name for name, each in model.named_parameters()}
    groups = nl.param_groups(model, 0.1, new_lr=new_lr, weight_decay=0.5, embeddings_lr=times)
    found = {
        names.pop(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]
    }
    assert not names
    blocks = 0.1 if new_lr is None else new_lr
    for name, (rate, decay) in found.items():
        is_embedding = ".nl.theta." in name or ".nl.phi." in name
        assert rate == pytest.approx(times * blocks if is_embedding else blocks if ".nl." in name else 0.1), (
            name
        )
        assert decay == 0.5 or not is_embedding
    assert sum(".nl.theta." in name or ".nl.phi." in name for name in found) == 8


def test_a_rate_that_would_reach_no_weight_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nl.NonLocal2d(4, instantiation="gaussian"))
    with pytest.raises(ValueError, match=r"theta and phi .* which blocks of the Gaussian form do not have"):
        nl.param_groups(model, 0.1, embeddings_lr=0.2)
    # As a wrapper leaves it that keeps all weights in one of its own.
    for layer in model[1].modules():
        layer._parameters.clear()
    with pytest.raises(ValueError, match=r"new_lr is for non-local blocks .* use_orig_params=True"):
        nl.param_groups(model, 0.1, new_lr=0.2)


@pytest.mark.parametrize("name", ["lr", "new_lr", "weight_decay", "embeddings_lr"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "0.2", True])
def test_a_rate_that_is_none(name, value):
    model, _ = small_resnet(after=["layer3"])
    with pytest.raises(ValueError, match=f"^{name} must be"):
        nl.param_groups(model, **{"lr": 0.1, name: value})


@pytest.mark.parametrize("norm", ["batch", None])
def test_untrained_blocks_are_named(norm):
    model, x = small_resnet(after=["layer2.0"], norm=norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    insert_nonlocal_(model, ["layer3"], norm=norm)
    with pytest.raises(AssertionError, match=r"2 of 2 .* identity: layer2\.0\.nl, layer3\.nl\."):
        nl.assert_trained(model)
    model(x).square().sum().backward()
    optimizer.step()
    with pytest.raises(AssertionError, match=r"1 of 2 .* identity: layer3\.nl\..*param_groups"):
        nl.assert_trained(model)
    randomize_(model.layer3.nl)
    nl.assert_trained(model)
    with pytest.raises(ValueError, match="no non-local block"):
        nl.assert_trained(nn.Linear(2, 2))
