"""Networks of torchvision by name, trained with blocks inserted; their checkpoints are full citizens."""

import json

import pytest
import torch
from test_few_samples import write_photographs

import nonlocalnn as nl
from nonlocalnn.cli import main
from nonlocalnn.inference import load_classifier
from nonlocalnn.tasks.networks import named_network
from nonlocalnn.train import ClassificationTask, Recipe, train
from tolerances import near

models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    photographs = write_photographs(folder / "photographs", num_each=16)
    torch.manual_seed(0)
    torch.save(models.resnet18(weights=None).state_dict(), folder / "resnet18.pth")
    recipe = Recipe(
        data="images",
        data_dir=photographs,
        image_size=40,
        model="torchvision/resnet18",
        insert="layer3, layer2.1",
        insert_settings={"norm": "group", "num_heads": 2},
        start_from=folder / "resnet18.pth",
        epochs=1,
        lr=1e-5,
        device="cpu",
        output=folder / "run",
    )
    return recipe, train(recipe)


def test_the_checkpoint_tells_everything(run):
    recipe, result = run
    classifier = load_classifier(recipe.output / "best.safetensors")
    assert list(nl.nonlocal_blocks(classifier.model)) == ["layer2.1.nl", "layer3.nl"]
    blocks = nl.nonlocal_blocks(classifier.model).values()
    assert all(isinstance(block.norm, torch.nn.GroupNorm) and block.num_heads == 2 for block in blocks)
    assert (classifier.classes, classifier.sample_shape) == (("dark", "light"), (3, 40, 40))
    assert classifier.assumed == ()
    assert classifier.mean == near([255 * value for value in (0.485, 0.456, 0.406)])
    assert classifier.standard_deviation == near([255 * value for value in (0.229, 0.224, 0.225)])
    assert result.test["num_samples"] > 0


def test_training_and_test_see_the_same_pixels(run):
    recipe, _ = run
    own = ClassificationTask(recipe).data("test")
    again = load_classifier(recipe.output / "best.safetensors").load_dataset("images", "test")
    assert len(own) == len(again)
    assert torch.equal(own[0][0], again[0][0])
    assert own[0][0].min() < 0


@pytest.mark.parametrize(
    "command",
    ["evaluate", "predict", "maps", "explain", pytest.param("export", marks=pytest.mark.slow)],
)
def test_every_command_takes_it(run, command, tmp_path, capsys):
    recipe, _ = run
    model = str(recipe.output / "best.safetensors")
    photograph = str(next(recipe.data_dir.glob("light/*.png")))
    words = {
        "evaluate": ["--model", model, "--output", str(tmp_path / "evaluate")],
        "predict": ["--model", model, photograph],
        "maps": ["--model", model, photograph, "--output", str(tmp_path / "maps")],
        "explain": ["--model", model, photograph, "--output", str(tmp_path / "page.html")],
        # Of images of 40 pixels the last map is one position, which PyTorch then takes for granted.
        "export": [model, "--format", "pt2", "--static", "--output", str(tmp_path / "model.pt2")],
    }[command]
    assert main([command, *words]) == 0
    if command == "predict":
        assert json.loads(capsys.readouterr().out.splitlines()[0])["class"] in ("dark", "light")


def test_it_resumes(run):
    recipe, result = run
    assert train(recipe, resume=True).test == result.test


def test_refusals():
    with pytest.raises(ValueError, match=r"library of a model must be one of .* 'torchvision'"):
        named_network("torchvison/resnet18")
    with pytest.raises(ValueError, match=r"a network of torchvision must be .* \(did you mean 'resnet18'"):
        named_network("torchvision/resnet81")
    with pytest.raises(
        ValueError, match=r"'resnet18' is none of our own.* did you mean 'torchvision/resnet18'"
    ):
        named_network("resnet18")
    with pytest.raises(ValueError, match="model must be one of"):
        named_network("no_such_network")
    settings = {"data": "digits", "insert": "conv_1", "insert_settings": {"heads": 2}}
    task = ClassificationTask(Recipe(model="nl_digits", **settings))
    with pytest.raises(
        ValueError, match=r"a setting of insert_settings must be .* \(did you mean 'num_heads'"
    ):
        task.model(task.data("validation"))
    task = ClassificationTask(Recipe(data="digits", model="torchvision/resnet18"))
    with pytest.raises(ValueError, match="torchvision/resnet18 takes images of 3 channels; these have 1"):
        task.model(task.data("validation"))
    with pytest.raises(ValueError, match="takes samples of shape"):
        ClassificationTask(Recipe(data="videos", model="torchvision/resnet18"))
