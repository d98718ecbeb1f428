import math
from itertools import pairwise

import pytest
import torch

import nonlocalnn as nl
from nonlocalnn.train import Recipe, train
from nonlocalnn.train.optimizer import build_optimizer, learning_rate
from tolerances import assert_near, near


def rates(recipe, steps_per_epoch=4):
    return [
        learning_rate(recipe, step, steps_per_epoch=steps_per_epoch)
        for step in range(recipe.epochs * steps_per_epoch)
    ]


def test_constant():
    assert rates(Recipe(lr=0.3, epochs=2)) == [0.3] * 8


def test_cosine_falls_from_lr_towards_zero():
    found = rates(Recipe(lr=2.0, epochs=3, schedule="cosine"))
    assert found == near([1 + math.cos(math.pi * step / 12) for step in range(12)])


def test_poly_falls_to_zero_by_what_is_left():
    found = rates(Recipe(lr=2.0, epochs=3, schedule="poly"))
    assert found == near([2 * (1 - step / 12) ** 0.9 for step in range(12)])
    risen = rates(Recipe(lr=1.0, epochs=3, warmup_epochs=1.5, schedule="poly"))
    assert risen[:7] == near([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])
    assert all(early > late for early, late in pairwise(risen[6:]))


def test_step_drops_at_milestones():
    found = rates(Recipe(lr=1.0, epochs=3, schedule="step", milestones=(1, 2), gamma=0.5))
    assert found == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_warmup_rises_to_lr_and_joins_the_schedule():
    found = rates(Recipe(lr=1.0, epochs=3, warmup_epochs=1.5, schedule="cosine"))
    assert found[:7] == near([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])
    assert all(early > late for early, late in pairwise(found[6:]))


@pytest.mark.parametrize(
    ("recipe", "kind", "expected"),
    [
        (Recipe(weight_decay=0.1), torch.optim.Adam, {"weight_decay": 0.1}),
        (Recipe(optimizer="adamw", weight_decay=0.2), torch.optim.AdamW, {"weight_decay": 0.2}),
        (Recipe(optimizer="sgd"), torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        (
            Recipe(optimizer="sgd", momentum=0.5, nesterov=True),
            torch.optim.SGD,
            {"momentum": 0.5, "nesterov": True},
        ),
    ],
    ids=["adam", "adamw", "sgd", "nesterov"],
)
def test_builds(recipe, kind, expected):
    optimizer = build_optimizer(recipe, torch.nn.Linear(3, 2))
    assert type(optimizer) is kind
    assert {name: optimizer.defaults[name] for name in expected} == expected


def test_milestones_in_steps():
    recipe = Recipe(lr=1.0, schedule="step", iterations=7, milestones=(2, 5))
    found = [learning_rate(recipe, step, steps_per_epoch=3) for step in range(7)]
    assert found == near([1.0] * 2 + [0.1] * 3 + [0.01] * 2)


def test_a_cosine_over_steps_ends_with_them():
    recipe = Recipe(lr=2.0, schedule="cosine", iterations=8)
    found = [learning_rate(recipe, step, steps_per_epoch=3) for step in range(8)]
    assert found == near([1 + math.cos(math.pi * step / 8) for step in range(8)])


def test_the_rate_follows_the_batch():
    assert rates(Recipe(lr=0.01, lr_batch_size=64, batch_size=16, epochs=1)) == [0.0025] * 4
    assert rates(Recipe(lr=0.01, batch_size=16, epochs=1)) == [0.01] * 4


def test_norms_do_not_decay():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 1))
    optimizer = build_optimizer(Recipe(weight_decay=0.5, decay_norms=False, lr=1.0, optimizer="sgd"), model)
    rates = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    found = {name: rates[id(each)] for name, each in model.named_parameters()}
    # Biases of convolutions and of linear layers decay, as in the released code.
    assert found == {
        **dict.fromkeys(["0.weight", "0.bias", "2.weight", "2.bias"], 0.5),
        **dict.fromkeys(["1.weight", "1.bias"], 0.0),
    }
    assert {
        group["weight_decay"] for group in build_optimizer(Recipe(weight_decay=0.5), model).param_groups
    } == {0.5}


@pytest.mark.parametrize("decay", [{}, {"weight_decay": 0.1, "decay_norms": False}], ids=["", "decay"])
@pytest.mark.parametrize("form", ["gaussian", "embedded_gaussian", "concatenation"])
def test_embeddings_have_a_rate_of_their_own(form, decay):
    model = nl.create_model("nl2_c2d_tiny", instantiation=form)
    optimizer = build_optimizer(Recipe(embeddings_lr=0.1, **decay), model)
    shares = {each: group["times_lr"] for group in optimizer.param_groups for each in group["params"]}
    names = {name: shares.pop(each) for name, each in model.named_parameters()}
    assert not shares
    slower = {name for name, share in names.items() if share == 0.1}
    assert slower == {name for name in names if ".theta." in name or ".phi." in name}
    assert bool(slower) == (form != "gaussian")
    assert set(names.values()) <= {0.1, 1.0}
    by_decay = {group["weight_decay"] for group in optimizer.param_groups}
    assert by_decay == ({0.0, 0.1} if decay else {0.0})


def test_a_step_of_the_embeddings_is_a_part_of_the_others(tmp_path):
    after = []
    for share in (1.0, 0.5, 1e-9):
        recipe = Recipe(
            data="cue-sequence",
            model="nl2_c1d_tiny",
            optimizer="sgd",
            lr=0.1,
            embeddings_lr=share,
            batch_size=4,
            iterations=1,
            keep="last",
            device="cpu",
            output=tmp_path / str(share),
        )
        train(recipe, progress=False)
        after.append(nl.load_checkpoint(recipe.output / "last.safetensors").state_dict())
    whole, half, start = after
    for name in whole:
        if ".theta." in name or ".phi." in name:
            assert_near(2 * (half[name] - start[name]), whole[name] - start[name], largest=1.0)
            assert "weight" not in name or (whole[name] != start[name]).any()
        else:
            assert_near(half[name].float(), whole[name].float())
