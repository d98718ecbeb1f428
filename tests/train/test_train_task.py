import pytest
import torch

from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.train import ClassificationTask, Recipe, train
from nonlocalnn.train import task as task_module


def test_digits_are_classified(tmp_path, monkeypatch):
    load = task_module.load_dataset

    def load_few(name, split, **settings):
        data = load(name, split, **settings)
        data.targets = data.targets[:32]
        return data

    monkeypatch.setattr(task_module, "load_dataset", load_few)
    recipe = Recipe(epochs=2, batch_size=16, device="cpu", output=tmp_path)
    result = train(recipe)
    assert result.test["num_samples"] == 32
    assert set(result.test["recall"]) == set("0123456789")
    metadata = read_metadata(tmp_path / "best.safetensors")
    assert metadata["classes"] == list("0123456789")
    assert (metadata["image_size"], metadata["channels"]) == ([28, 28], 1)
    assert Recipe.from_dict(metadata["recipe"]) == recipe
    assert metadata["epoch"] == result.best_epoch
    assert metadata["validation_accuracy"] == result.best_metric


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
    torch.testing.assert_close(loss, expected)
    assert float(logs["accuracy"]) == 0.75
