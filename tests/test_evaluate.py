"""The figures of an evaluation, against scikit-learn's."""

import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

from nonlocalnn._device import autocast_for, resolve_device
from nonlocalnn.data import LabelledImages
from nonlocalnn.tasks.evaluation import evaluate
from nonlocalnn.tasks.figures import Evaluation
from tolerances import near

CLASSES = ("a", "b", "c")


class Images(LabelledImages):
    def __init__(self, number=23):
        targets = torch.randint(0, 3, (number,)).tolist()
        super().__init__(classes=CLASSES, channels=1, image_size=(2, 2), targets=targets)
        self.images = torch.randn(number, 1, 2, 2)

    def read(self, index):
        return self.images[index]

    def sample_id(self, index):
        return str(index)


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x):
        return self.layer(self.dropout(x.flatten(1)))


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_figures_equal_scikit_learn(batch_size):
    data, model = Images(), Scores().train()
    found = evaluate(model, data, batch_size=batch_size)
    assert model.training
    scores = model.layer(data.images.flatten(1)).detach()
    predicted = scores.argmax(1).tolist()
    assert found.confusion.tolist() == metrics.confusion_matrix(data.targets, predicted).tolist()
    assert found.accuracy == near(metrics.accuracy_score(data.targets, predicted))
    assert found.recall == near(metrics.recall_score(data.targets, predicted, average=None))
    expected = metrics.precision_score(data.targets, predicted, average=None, zero_division=float("nan"))
    assert found.precision == near(list(expected))
    assert found.loss == near(float(F.cross_entropy(scores, torch.tensor(data.targets))))
    assert found.num_samples == len(data)


def test_undefined_figures_are_null_in_json():
    data = Images()
    data.targets = [0] * len(data)
    model = Scores()
    with torch.no_grad():
        model.layer.bias.copy_(torch.tensor([99.0, 0.0, 0.0]))
    found = evaluate(model, data).to_dict()
    assert found["recall"] == {"a": 1.0, "b": None, "c": None}
    assert found["precision"] == {"a": 1.0, "b": None, "c": None}


def test_wrong_inputs():
    with pytest.raises(ValueError, match="empty data set"):
        evaluate(Scores(), Images(0))
    with pytest.raises(ValueError, match=r"the model's output must be \(B, 3\).*got \(23, 4\)"):
        evaluate(nn.Flatten(), Images())
    with pytest.raises(TypeError, match="must be LabelledSamples; got TensorDataset: derive its class from"):
        evaluate(Scores(), torch.utils.data.TensorDataset(torch.zeros(2, 1, 2, 2), torch.zeros(2)))
    with pytest.raises(ValueError, match="precision must be one of"):
        autocast_for("fp8", "cpu")
    with pytest.raises(ValueError, match="device must be 'auto'"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="device 'cuda:77' is not there"):
        resolve_device("cuda:77")


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(7, 3)],
    ids=["channels", "size"],
)
def test_samples_that_the_model_does_not_take(model):
    """The error speaks of the data set's samples, not of a layer's weights alone."""
    with pytest.raises(
        ValueError, match=r"the model must take the samples .* of shape \(1, \d, \d\), and refuses"
    ):
        evaluate(model, Images())


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"num_workers": 1.5}, {"batch_size": 0}], ids=str)
def test_numbers_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least"):
        evaluate(Scores(), Images(), **settings)


def test_precision_is_used():
    model = nn.Linear(4, 3)
    with autocast_for("bf16", "cpu"):
        assert model(torch.zeros(1, 4)).dtype == torch.bfloat16
    with autocast_for("fp32", "cpu"):
        assert model(torch.zeros(1, 4)).dtype == torch.float32


def test_what_a_class_without_samples_has_not_is_a_dash():
    found = Evaluation(
        loss=0.0,
        classes=("left", "right"),
        confusion=torch.tensor([[0, 0], [0, 3]]),
        top5_accuracy=1.0,
        num_samples=3,
    )
    assert found.per_class_table().splitlines()[1].split() == ["left", "0", "-", "-"]
