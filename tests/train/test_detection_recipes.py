"""The recipes of detection that come with the package, each started on something small."""

import json
from pathlib import Path

import pytest
import torch

import nonlocalnn as nl
from keypoint_pictures import write_keypoints
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.train import train
from object_pictures import write_roboflow

RECIPES = Path(nl.__file__).parent / "recipes"
# What is left of each recipe is its optimiser, schedule, settings of the data and starting weights.
TINY = {"depth": [1, 1, 2, 1], "width": 8, "blocks": {"layer3": [0]}, "min_size": 64}
NAMES = ("coco-r50", "coco-r101", "coco-x152", "coco-keypoints-r101")


def parsed(words):
    recipe, _ = RecipeParser(program="train", description="", example="").parse_words(words)
    return recipe


def test_each_names_a_network_that_there_is():
    assert {path.stem for path in RECIPES.glob("coco-*.yaml")} == set(NAMES)
    # The task may be named too.
    assert parsed(["--data", "detect-cue", "--task", "detection"]).task == "detection"
    for name in NAMES:
        recipe = task_of(parsed(["--config", name])).recipe
        assert nl.models.model_task(recipe.model) == "detection"
        assert recipe.model.endswith(name.rpartition("-")[2])


# Heads of regions are as wide as the published ones, whatever the body: half a minute each.
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_cocos_recipes_start(name, tmp_path):
    recipe = parsed(["--config", name])
    write = write_keypoints if "keypoints" in name else write_roboflow
    root = write(tmp_path / "data", train=2, others=1)
    groups = {"groups": 32, "group_width": 8} if "x152" in name else {}
    settings = {"depth": TINY["depth"], "width": TINY["width"], "small_stem": False, **groups}
    torch.save(nl.create_model("resnet_tiny", **settings).state_dict(), tmp_path / "weights.pth")
    words = ["--config", name, "--data-dir", str(root), "--start-from", str(tmp_path / "weights.pth")]
    words += ["--iterations", "2", "--milestones", "[1]", "--batch-size", "2", "--num-workers", "0"]
    words += ["--output", str(tmp_path / "run"), "--device", "cpu", "--model-overrides", json.dumps(TINY)]
    small = parsed(words)
    if "keypoints" in name:
        assert recipe.model_overrides == {"min_size": [640, 672, 704, 736, 768, 800]}
    for field in ("optimizer", "lr", "lr_batch_size", "weight_decay", "schedule", "keep", "max_broken"):
        assert getattr(small, field) == getattr(recipe, field)
    result = train(small, progress=False)
    assert (result.steps, result.test["num_samples"]) == (2, 1)


@pytest.mark.slow
def test_the_scenes_recipe_begins_with_a_run_of_segmentation(tmp_path):
    scenes = parsed(["--config", "segment-cue", "--output", str(tmp_path / "scenes"), "--iterations", "1"])
    train(scenes, progress=False)
    words = ["--config", "detect-cue", "--start-from", str(tmp_path / "scenes"), "--iterations", "1"]
    result = train(parsed([*words, "--output", str(tmp_path / "objects")]), progress=False)
    assert result.test["num_samples"] == 200
    assert set(result.test["box_ap_by_class"]) == {"cue", "other"}
