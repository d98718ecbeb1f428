from dataclasses import replace

import pytest
import torch

from nonlocalnn.checkpoints import load_checkpoint, read_metadata
from nonlocalnn.tasks import inputs as task_module
from nonlocalnn.train import ClassificationTask, Recipe, train
from tolerances import assert_near


@pytest.fixture
def _few_samples(monkeypatch):
    load = task_module.load_dataset

    def load_few(name, split, **settings):
        data = load(name, split, **settings)
        data.targets = data.targets[:32]
        return data

    monkeypatch.setattr(task_module, "load_dataset", load_few)


@pytest.mark.usefixtures("_few_samples")
def test_digits_are_classified(tmp_path):
    recipe = Recipe(epochs=2, batch_size=16, device="cpu", output=tmp_path)
    result = train(recipe)
    assert result.test["num_samples"] == 32
    assert set(result.test["recall"]) == set("0123456789")
    metadata = read_metadata(tmp_path / "best.safetensors")
    assert metadata["classes"] == list("0123456789")
    assert (metadata["image_size"], metadata["channels"]) == ([28, 28], 1)
    assert metadata["sample_shape"] == [1, 28, 28]
    assert Recipe.from_dict(metadata["recipe"]) == replace(recipe, model="nl_digits", norm_batches=2)
    assert metadata["epoch"] == result.best_epoch
    assert metadata["validation_accuracy"] == result.best_metric


@pytest.mark.usefixtures("_few_samples")
@pytest.mark.parametrize(
    ("data", "model", "facts"),
    [
        ("cue", "nl2_c2d_tiny", {"sample_shape": [3, 8, 32, 32], "channels": 3, "image_size": [32, 32]}),
        ("cue-sequence", "nl2_c1d_tiny", {"sample_shape": [3, 384], "channels": 3}),
    ],
)
def test_clips_and_sequences_are_classified(tmp_path, data, model, facts):
    result = train(Recipe(data=data, model=model, epochs=1, batch_size=16, device="cpu", output=tmp_path))
    assert result.test["num_samples"] == 32
    assert set(result.test["recall"]) == set("0123456789")
    metadata = read_metadata(tmp_path / "best.safetensors")
    recorded = {
        name: metadata[name] for name in ("sample_shape", "channels", "image_size") if name in metadata
    }
    assert recorded == facts
    assert load_checkpoint(tmp_path / "best.safetensors").config["name"] == model


@pytest.mark.parametrize(
    ("data", "model", "overrides", "says"),
    [
        (
            "cue",
            "nl_digits",
            {},
            r"'nl_digits' takes images, and the samples of 'cue' are clips of shape \(3, 8",
        ),
        ("digits", "c2d_tiny", {}, "'c2d_tiny' takes clips, and the samples of 'digits' are images"),
        ("cue-sequence", "c2d_tiny", {}, "choose a network for sequences"),
        ("cue", "c2d_tiny", {"num_sides": 2}, "'c2d_tiny' takes images"),
        ("cue", "c2d_tiny", {"num_sides": 4}, "num_sides must be 1 "),
        (
            "digits",
            "resnet_tiny",
            {"in_channels": 3},
            "must not set in_channels to 3: the samples have 1;",
        ),
    ],
)
def test_a_network_for_other_samples(data, model, overrides, says):
    task = ClassificationTask(Recipe(data=data, model=model, model_overrides=overrides))
    with pytest.raises(ValueError, match=says):
        task.model(task.data("test"))


def test_a_network_fits_the_channels_and_size_of_its_data():
    task = ClassificationTask(Recipe(data="digits", image_size=20))
    assert task.model(task.data("test")).config["overrides"] == {"in_channels": 1, "image_size": [20, 20]}
    task = ClassificationTask(Recipe(data="cue", image_size=20, model="c2d_tiny"))
    assert task.model(task.data("test")).config["overrides"] == {"in_channels": 3}


@pytest.mark.parametrize("augment", [True, False])
def test_only_training_images_are_augmented(augment):
    task = ClassificationTask(Recipe(augment=augment))
    for split in ("train", "validation", "test"):
        data = task.data(split)
        varies = not torch.equal(data[0][0], data[0][0])
        assert varies is (augment and split == "train")


def test_loss_and_accuracy():
    scores = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    targets = torch.tensor([0, 1, 2, 0])
    loss, logs = ClassificationTask(Recipe()).loss(torch.nn.Identity(), (scores, targets))
    expected = -torch.log_softmax(scores, 1)[torch.arange(4), targets].mean()
    assert_near(loss, expected)
    assert float(logs["accuracy"]) == 0.75
