"""Segmentation networks of torchvision by name, with blocks inserted."""

import pytest
import torch

import nonlocalnn as nl
from helpers import randomize_
from mask_pictures import write_folder
from nonlocalnn.checkpoints.description import describe
from nonlocalnn.cli import main
from nonlocalnn.inference import load_segmenter
from nonlocalnn.models.libraries import build_named
from nonlocalnn.tasks.networks import check_task
from nonlocalnn.train import Recipe, SegmentationTask, train
from nonlocalnn.train.initial_weights import start_from_
from tolerances import NETWORK, assert_near, assert_same

models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")

SMALL = "lraspp_mobilenet_v3_large"


def inserted(name, num_classes=3, **settings):
    torch.manual_seed(0)
    model = build_named("torchvision", name, num_classes, settings)
    # Without training mode: one image has no statistics.
    nl.insert_nonlocal_(model.eval(), after=["backbone.12"], example_input=torch.zeros(1, 3, 32, 32))
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (SMALL, {}),
        ("deeplabv3_mobilenet_v3_large", {"aux_loss": True}),
        pytest.param("deeplabv3_mobilenet_v3_large", {}, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_tells_how_it_is_made(tmp_path, name, settings):
    model = randomize_(inserted(name, **settings)).eval()
    nl.save_checkpoint(model, tmp_path / "model.safetensors", metadata={"classes": ["a", "b", "c"]})
    segmenter = load_segmenter(tmp_path / "model.safetensors")
    assert "sample_shape" in segmenter.assumed
    x = torch.rand(1, 3, 40, 56)
    assert_same(segmenter.model(x)["out"], model(x)["out"])
    assert segmenter.labels(x[0]).shape == (40, 56)


def test_a_network_that_was_changed_is_not_described():
    model = inserted(SMALL)
    model.classifier.scale = torch.nn.Identity()
    assert describe(model) is None


def test_it_starts_from_a_classifier_or_from_other_classes(tmp_path):
    classifier, own = models.mobilenet_v3_large(), inserted(SMALL)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    kept = start_from_(own, tmp_path / "classifier.pth")
    assert_same(own.backbone["0"][0].weight, classifier.features[0][0].weight)
    assert {name.partition(".")[0] for name in kept if ".nl." not in name} == {"classifier"}
    other = build_named("torchvision", SMALL, 21, {})
    torch.save(other.state_dict(), tmp_path / "other.pth")
    kept = start_from_(own, tmp_path / "other.pth")
    assert_same(own.classifier.cbr[0].weight, other.classifier.cbr[0].weight)
    assert [name for name in kept if ".nl." not in name] == [
        f"classifier.{part}_classifier.{name}" for part in ("low", "high") for name in ("weight", "bias")
    ]
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(nl.CheckpointError, match="is of another network: it lacks backbone"):
        start_from_(own, tmp_path / "resnet18.pth")


def test_it_is_no_classifier():
    check_task(f"torchvision/{SMALL}", "segmentation")
    with pytest.raises(ValueError, match="is for segmentation and gives a class for each pixel"):
        check_task(f"torchvision/{SMALL}", "classification")
    with pytest.raises(ValueError, match="is for classification and gives one answer"):
        SegmentationTask(Recipe(data="masks", model="torchvision/resnet18"))


@pytest.mark.slow
def test_every_command_takes_a_run(tmp_path):
    root = write_folder(tmp_path / "data", train=4, others=1)
    recipe = Recipe(
        data="masks",
        data_dir=root,
        image_size=32,
        model=f"torchvision/{SMALL}",
        insert="backbone.12",
        epochs=1,
        batch_size=2,
        device="cpu",
        output=tmp_path / "run",
    )
    assert 0 <= train(recipe).test["mean_iou"] <= 1
    picture = str(next((root / "test" / "images").rglob("*.*")))
    model = str(tmp_path / "run")
    for command, *words in (
        ("evaluate", "--model", model),
        ("predict", "--model", model, picture, "--output-folder", str(tmp_path / "answers")),
        ("explain", "--model", model, picture, "--output", str(tmp_path / "page.html")),
        ("maps", "--model", model, picture, "--output", str(tmp_path / "maps")),
        ("export", model, "--output", str(tmp_path / "model.pt2")),
    ):
        assert main([command, *words]) == 0
    x = torch.rand(2, 3, 32, 48)
    exported = torch.export.load(tmp_path / "model.pt2").module()(x)
    assert_near(exported, load_segmenter(model).model(x)["out"], sums=NETWORK)
