"""The recipes of segmentation of photographs that come with the package, each started on something small."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import nonlocalnn as nl
from mask_pictures import draw
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.train import train

RECIPES = Path(nl.__file__).parent / "recipes"
NAMES = ("cityscapes-r50-40k", "cityscapes-r50-80k", "ade20k-r50-80k")


def parsed(words):
    recipe, _ = RecipeParser(program="train", description="", example="").parse_words(words)
    return recipe


def write_cityscapes(root):
    for split, number in (("train", 4), ("val", 1)):
        for index in range(number):
            image, mask = draw(index)
            # Of the 34 ids road and car; what the pictures leave out stays left out.
            ids = Image.fromarray(((mask == 0) * 7 + (mask == 1) * 26).astype("uint8"))
            for folder, ending, made in (
                ("leftImg8bit", "leftImg8bit", Image.fromarray(image)),
                ("gtFine", "gtFine_labelIds", ids),
            ):
                place = root / folder / split / "bonn"
                place.mkdir(parents=True, exist_ok=True)
                made.save(place / f"bonn_{index}_0_{ending}.png")
    return root


def write_ade20k(root):
    for split, number in (("training", 4), ("validation", 1)):
        for index in range(number):
            image, mask = draw(index)
            for folder, ending, made in (
                ("images", "jpg", Image.fromarray(image)),
                ("annotations", "png", Image.fromarray(((mask == 0) + (mask == 1) * 2).astype("uint8"))),
            ):
                place = root / folder / split
                place.mkdir(parents=True, exist_ok=True)
                made.save(place / f"{index}.{ending}")
    return root


def test_each_names_a_network_that_there_is():
    assert {path.stem for path in RECIPES.glob("*-r50-*k.yaml")} == set(NAMES)
    for name in NAMES:
        recipe = task_of(parsed(["--config", name])).recipe
        assert nl.models.model_task(recipe.model) == "segmentation"
        assert recipe.iterations == int(name.rpartition("-")[2].removesuffix("k")) * 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_starts(name, tmp_path):
    recipe = parsed(["--config", name])
    root = (write_ade20k if "ade20k" in name else write_cityscapes)(tmp_path / "data")
    settings = {"depth": [1, 1, 1, 1], "width": 8, "small_stem": False}
    torch.save(nl.create_model("resnet_tiny", **settings).state_dict(), tmp_path / "weights.pth")
    words = ["--config", name, "--data-dir", str(root), "--start-from", str(tmp_path / "weights.pth")]
    words += ["--iterations", "2", "--batch-size", "2", "--num-workers", "0", "--image-size", "33"]
    words += ["--window", "33"] if recipe.window else ["--resize", "24"]
    words += ["--model-overrides", '{"depth": [1, 1, 1, 1], "width": 8}']
    small = parsed([*words, "--output", str(tmp_path / "run"), "--device", "cpu"])
    for field in ("optimizer", "lr", "lr_batch_size", "weight_decay", "schedule", "keep", "scales"):
        assert getattr(small, field) == getattr(recipe, field)
    result = train(small, progress=False)
    assert (result.steps, result.test["num_samples"]) == (2, 1)
