import json
from pathlib import Path

import pytest

from nonlocalnn.tasks.settings import OptimizerSettings, RunSettings, ScheduleSettings
from nonlocalnn.train import Recipe

FULL = Recipe(
    data_dir=Path("somewhere"),
    model_overrides={"blocks": False, "instantiation": "dot_product"},
    optimizer="sgd",
    momentum=0.5,
    nesterov=True,
    schedule="step",
    milestones=(2, 5),
    gamma=0.3,
    clip_norm=1.0,
)
VIDEO = Recipe(
    data="kinetics",
    data_dir=Path("kinetics"),
    frames=32,
    stride=2,
    short_sides=(256, 320),
    test_views=1,
    max_broken=3,
    decoder="torchcodec",
    start_from=Path("image.pth"),
    lr_batch_size=64,
    weight_decay=1e-4,
    decay_norms=False,
    iterations=400,
    norm_batches=200,
    keep="last",
    parallel="fsdp",
    sync_norms=True,
    activation_checkpointing=True,
)


@pytest.mark.parametrize("recipe", [Recipe(), FULL, VIDEO], ids=["default", "full", "video"])
def test_survives_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "admw"}, "did you mean 'adam"),
        ({"schedule": "linear"}, "schedule must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"channels": 2}, "channels must be one of"),
        ({"device": "gpu"}, "device must be"),
        ({"model_overrides": {"a": {1}}}, "only JSON values"),
        ({"insert": "layer1", "insert_settings": {"a": {1}}}, "insert_settings must hold only JSON values"),
        ({"insert_settings": {"norm": "group"}}, "insert_settings has an effect only with insert"),
        ({"model_overrides": {"num_classes": 3}}, "the data set decides"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"seed": -1}, "seed must be zero or more"),
        ({"weight_decay": float("nan")}, "weight_decay must be zero or more"),
        ({"lr": 0.0}, "lr must be greater than zero"),
        ({"clip_norm": -1.0}, "clip_norm must be greater than zero"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum must be at least 0"),
        ({"batch_size": 10, "accumulate": 3}, "divisible by accumulate; got 10 and 3"),
        ({"momentum": 0.9}, "momentum has an effect only with optimizer='sgd'"),
        ({"nesterov": True}, "nesterov has an effect only with optimizer='sgd'"),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov needs a momentum"),
        ({"gamma": 0.5}, "gamma has an effect only with schedule='step'"),
        ({"milestones": (2,)}, "milestones has an effect only"),
        ({"schedule": "step"}, "needs milestones"),
        ({"schedule": "step", "milestones": (3, 3)}, "milestones must ascend"),
        ({"schedule": "step", "milestones": (10,)}, "milestones must ascend"),
        ({"warmup_epochs": 10.0}, "warmup_epochs must be less than epochs=10"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"schedule": "step", "milestones": (5, 20), "iterations": 20}, "between 0 and iterations=20"),
        ({"decay_norms": False}, "decay_norms=False has an effect only with a weight_decay"),
        ({"norm_batches": -1}, "norm_batches must be zero or more"),
        ({"lr_batch_size": 0}, "lr_batch_size must be at least 1"),
        ({"parallel": "dpp"}, "parallel must be one of 'ddp', 'fsdp'; got 'dpp'"),
        ({"keep": "first"}, "keep must be one of 'best', 'last'"),
        ({"frames": 8}, "frames has an effect only with videos, data one of videos, .*; got data='digits'"),
        ({"data": "cue", "max_broken": 1}, "max_broken has an effect only with files"),
        ({"data": "videos", "test_views": 3}, "test_views must be one of 1, 30"),
        ({"data": "videos", "decoder": "opencv"}, "decoder must be one of 'pyav', 'torchcodec'"),
        ({"data": "videos", "stride": 0}, "stride must be at least 1"),
    ],
)
def test_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**values)


def test_refuses_unknown_field():
    with pytest.raises(ValueError, match=r"no field 'batchsize' \(did you mean 'batch_size'"):
        Recipe.from_dict({"batchsize": 3})


def test_only_mathematics_counts_as_changed():
    free = Recipe(
        data_dir=Path("x"),
        num_workers=2,
        epochs=99,
        activation_checkpointing=True,
        device="cpu",
        checkpoint_every=5,
        output=Path("y"),
    )
    assert free.changed_fields(Recipe().to_dict()) == []
    assert Recipe(seed=1, batch_size=32).changed_fields(Recipe().to_dict()) == ["batch_size", "seed"]


def test_more_steps_continue_a_schedule_of_steps():
    saved = VIDEO.to_dict()
    longer = Recipe.from_dict({**saved, "iterations": 800, "decoder": "pyav"})
    assert longer.changed_fields(saved) == []
    assert Recipe.from_dict({**saved, "norm_batches": 0}).changed_fields(saved) == ["norm_batches"]


def test_what_is_left_open_is_as_the_run_had_it():
    saved = Recipe(
        data="images", model="nl2_resnet_tiny", image_size=64, batch_size=8, norm_batches=3
    ).to_dict()
    again = Recipe(data="images").completed(saved)
    assert (again.model, again.image_size, again.batch_size, again.norm_batches) == (
        "nl2_resnet_tiny",
        64,
        8,
        3,
    )
    assert again.changed_fields(saved) == []
    other = Recipe(data="images", image_size=32, norm_batches=0).completed(saved)
    assert other.changed_fields(saved) == ["image_size", "norm_batches"]
    del saved["norm_batches"]
    assert Recipe(data="images").completed(saved).norm_batches == 0


def test_parts_check_themselves():
    assert isinstance(Recipe(), OptimizerSettings)
    with pytest.raises(ValueError, match="momentum has an effect only with optimizer='sgd'"):
        OptimizerSettings(momentum=0.9)
    with pytest.raises(ValueError, match="divisible by accumulate"):
        RunSettings(batch_size=3, accumulate=2)
    assert ScheduleSettings(epochs=3).num_steps(7) == 21


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_the_end_of_what_falls_to_zero_is_mathematics(schedule):
    saved = Recipe(schedule=schedule).to_dict()
    assert Recipe(schedule=schedule, epochs=20).changed_fields(saved) == ["epochs"]


def test_fields_that_a_saved_recipe_lacks_had_their_defaults():
    saved = Recipe().to_dict()
    del saved["parallel"], saved["sync_norms"]
    assert Recipe().changed_fields(saved) == []
    assert Recipe(sync_norms=True).changed_fields(saved) == ["sync_norms"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": None}, "lr must not be None"),
        ({"embeddings_lr": None}, "embeddings_lr must not be None"),
        ({"lr": True}, "lr must be a number; got True"),
        ({"lr": "0.1"}, "lr must be a number; got '0.1'"),
        ({"clip_norm": False}, "clip_norm must be a number"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch_size": "16"}, "batch_size must be a whole number"),
        ({"augment": 1}, "augment must be True or False"),
        ({"nesterov": None}, "nesterov must not be None"),
        ({"model": 3}, "model must be a word"),
    ],
)
def test_values_of_another_kind_are_refused(settings, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        Recipe(**settings)


def test_whole_numbers_are_numbers_and_what_is_left_open_stays_so():
    recipe = Recipe(lr=1, clip_norm=2, batch_size=None)
    assert (recipe.lr, recipe.clip_norm, recipe.batch_size) == (1, 2, None)
