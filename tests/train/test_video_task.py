"""Training on small videos that the tests encode."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_task import saved_tensors
from torch.nn import functional as F

import nonlocalnn as nl
from nonlocalnn._names import VIDEO_SETS
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.data.video.dataset import CentreClip, RandomClip, Views
from nonlocalnn.train import ClassificationTask, Recipe, train
from tolerances import NETWORK, assert_near, assert_same, near
from videos import write_video

RECIPES = Path(nl.__file__).parent / "recipes"
KINETICS = "label,youtube_id,time_start,time_end,split\n"


def encode(path, grey):
    return write_video(
        path, [np.full((40, 48, 3), grey + 3 * number, dtype=np.uint8) for number in range(20)]
    )


def make_videos(folder):
    """Dark and bright videos, three of each for training and one of each for the other splits."""
    for split, number in (("train", 3), ("validation", 1), ("test", 1)):
        for label, grey in (("bright", 180), ("dark", 20)):
            for index in range(number):
                encode(folder / split / label / f"{index}.mp4", grey + 4 * index)
    return folder


def make_kinetics(folder):
    for split in ("train", "val"):
        rows = []
        for label, grey in (("bright", 180), ("dark", 20)):
            for index in range(2):
                encode(folder / split / f"{label}{index}_000001_000011.mp4", grey + 4 * index)
                rows.append(f"{label},{label}{index},1,11,{split}\n")
        (folder / f"{split}.csv").write_text(KINETICS + "".join(rows))
    return folder


def make_charades(folder):
    for split, names in (("train", "AB"), ("test", "CD")):
        for name in names:
            encode(folder / "Charades_v1_480" / f"{name}.mp4", 20)
        rows = f"id,actions\n{names[0]},c001 0 1;c003 0 1\n{names[1]},c001 0 1\n"
        (folder / f"Charades_v1_{split}.csv").write_text(rows)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos"))


def recipe_for(videos, output, **changes):
    settings = {"frames": 4, "image_size": 16, "batch_size": 2, "epochs": 1, "device": "cpu", **changes}
    return Recipe(data="videos", data_dir=videos, model="nl2_c2d_tiny", output=output, **settings)


def test_each_split_is_sampled_in_its_own_way(videos, tmp_path):
    task = ClassificationTask(recipe_for(videos, tmp_path, image_size=None, augment=False))
    assert task.data("train").sampling == RandomClip((37, 46), crop_size=32, flip=False)
    assert task.data("validation").sampling == CentreClip(37)
    assert task.data("test").sampling == Views(10, 3, 37)
    one = ClassificationTask(recipe_for(videos, tmp_path, test_views=1, test_size=40, short_sides=(40, 50)))
    assert one.data("test").sampling == CentreClip(40)
    assert one.data("train").sampling == RandomClip((40, 50), crop_size=16)


def test_clips_are_those_of_the_network(videos, tmp_path):
    task = ClassificationTask(
        Recipe(data="videos", data_dir=videos, model="nl5_i3d_r50_32x2", output=tmp_path)
    )
    data = task.data("validation")
    assert (data.frames, data.stride, data.sampling.size) == (32, 2, 256)
    task = ClassificationTask(recipe_for(videos, tmp_path, stride=3))
    assert (task.data("test").frames, task.data("test").stride) == (4, 3)


def test_trains_validates_and_tests(videos, tmp_path):
    recipe = recipe_for(videos, tmp_path, epochs=2, norm_batches=1)
    result = train(recipe)
    assert result.metric == "accuracy"
    assert result.test["views"] == "30 views (10 clips x 3 crops)"
    assert (result.test["num_samples"], result.test["unreadable"]) == (2, [])
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["metadata"])
    assert metadata["classes"] == ["bright", "dark"]
    assert metadata["sample_shape"] == [3, 4, 16, 16]
    assert (metadata["stride"], metadata["test_size"], metadata["mean"]) == (1, 18, 114.75)
    assert metadata["multi_label"] is False


@pytest.mark.slow
def test_what_is_learnt_is_found_in_files(videos, tmp_path):
    train(recipe_for(videos, tmp_path, epochs=12, lr=0.01, batch_size=6, norm_batches=1, test_views=1))
    classifier = nl.load_classifier(tmp_path)
    for label in ("bright", "dark"):
        answer = classifier.predict(videos / "test" / label / "0.mp4")
        assert answer["class"] == label


def test_a_run_that_was_stopped_gives_the_same_weights(videos, tmp_path, monkeypatch):
    whole, cut = (recipe_for(videos, tmp_path / name, epochs=2, test_views=1) for name in ("whole", "cut"))
    train(whole)
    original, calls = ClassificationTask.loss, []

    def interrupted(self, model, batch):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, model, batch)

    saving = recipe_for(videos, tmp_path / "cut", epochs=2, test_views=1, checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(saving)
    train(cut, resume=True)
    assert_same(*(saved_tensors(tmp_path / name) for name in ("whole", "cut")))


@pytest.mark.slow
def test_a_resumed_run_asks_no_more_for_the_weights_it_began_with(videos, tmp_path):
    source = nl.create_model("nl2_c2d_tiny", num_classes=2)
    nl.save_checkpoint(source, tmp_path / "source.safetensors")
    recipe = recipe_for(videos, tmp_path / "run", test_views=1, start_from=tmp_path / "source.safetensors")
    train(recipe)
    (tmp_path / "source.safetensors").unlink()
    longer = dataclasses.replace(recipe, epochs=2)
    assert train(longer, resume=True).steps == 6


def test_several_classes_a_video(tmp_path):
    folder = make_charades(tmp_path / "charades")
    recipe = Recipe(
        data="charades",
        data_dir=folder,
        model="c2d_tiny",
        frames=4,
        image_size=16,
        batch_size=2,
        epochs=1,
        test_views=1,
        device="cpu",
        output=tmp_path / "run",
    )
    task = ClassificationTask(recipe)
    model = task.model(task.data("train"))
    torch.nn.init.normal_(model.fc.weight)
    clips, targets = torch.randn(2, 3, 4, 16, 16), torch.zeros(2, 157)
    targets[0, 3] = 1
    loss, logs = task.loss(model.eval(), [clips, targets])
    probabilities = model.double()(clips.double()).sigmoid()
    likelihood = torch.where(targets == 1, probabilities, 1 - probabilities)
    assert_near(loss.double(), -likelihood.log().mean(), sums=NETWORK, dtype=torch.float32)
    assert logs == {}
    result = train(recipe)
    assert result.metric == "mean_average_precision"
    assert 0 <= result.test["mean_average_precision"] <= 1


def test_cross_entropy_and_accuracy(videos, tmp_path):
    task = ClassificationTask(recipe_for(videos, tmp_path))
    scores = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    targets = torch.tensor([0, 1, 1])
    loss, logs = task.loss(lambda clips: scores, [torch.zeros(3), targets])
    assert_near(loss, F.cross_entropy(scores, targets))
    assert float(logs["accuracy"]) == near(2 / 3)


def test_the_data_set_names_the_kind_of_input(videos, tmp_path):
    assert ClassificationTask(Recipe()).input.name == "image"
    assert ClassificationTask(Recipe(data="cue", model="c2d_tiny")).input.name == "video"
    assert ClassificationTask(Recipe(data="cue-sequence", model="c2d_tiny")).input.name == "sequence"
    assert ClassificationTask(recipe_for(videos, tmp_path)).input.name == "video"


def test_the_score_follows_from_the_list_and_not_from_its_name(videos, tmp_path):
    assert ClassificationTask(recipe_for(videos, tmp_path)).metric == "accuracy"
    folder = make_charades(tmp_path / "charades")
    recipe = dataclasses.replace(recipe_for(folder, tmp_path), data="charades")
    assert ClassificationTask(recipe).metric == "mean_average_precision"


def test_wrong_recipes(videos, tmp_path):
    with pytest.raises(ValueError, match=r"'nl_digits' takes samples of shape .* choose a network for clips"):
        ClassificationTask(Recipe(data="videos", data_dir=videos, model="nl_digits"))
    with pytest.raises(ValueError, match="videos always have 3: leave it out"):
        ClassificationTask(recipe_for(videos, tmp_path, channels=1))
    with pytest.raises(ValueError, match="'kinetics' needs data_dir"):
        train(Recipe(data="kinetics", model="c2d_tiny", output=tmp_path / "run"))


# Small enough for a test; what is left of each recipe is its optimiser, schedule, data and starting weights.
SMALL = [
    "--image-size",
    "16",
    "--frames",
    "8",
    "--batch-size",
    "2",
    "--num-workers",
    "0",
    "--test-size",
    "16",
]


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECIPES.glob("*.yaml"))])
def test_the_recipes_that_ship_start(name, tmp_path, videos):
    words = ["--config", name]
    recipe, _ = RecipeParser(program="train", description="", example="").parse_words(words)
    if recipe.data not in VIDEO_SETS:
        return
    data_dir = videos
    if recipe.data != "videos":
        maker = make_charades if recipe.data == "charades" else make_kinetics
        data_dir = maker(tmp_path / "data")
    words += [*SMALL, "--data-dir", str(data_dir), "--output", str(tmp_path / "run"), "--test-views", "1"]
    changes = {
        "depth": [1, 1, 1, 1],
        "width": 4,
        "blocks": {"layer2": [0], "layer3": [0]},
        "small_stem": True,
    }
    if recipe.start_from is not None:
        source = tmp_path / "weights"
        if recipe.start_from.suffix == ".pth":
            image = nl.create_model("resnet_tiny", **{key: changes[key] for key in ("depth", "width")})
            torch.save(image.state_dict(), source)
        else:
            short = nl.create_model(
                "nl5_i3d_r101_8x8" if "r101" in recipe.model else "nl5_i3d_r50_8x8",
                **{**changes, "num_classes": 2},
            )
            nl.save_checkpoint(short, source)
        words += ["--start-from", str(source)]
    if "128x1" in recipe.model:
        # Its first layers halve time, which a small stem leaves out.
        changes["halves_time_early"] = False
    steps = ["--iterations", "2", "--milestones", "[1]"] if recipe.iterations else ["--epochs", "1"]
    if recipe.iterations is None:
        steps += ["--warmup-epochs", "0.5"]
    overrides = ["--model-overrides", json.dumps(changes)]
    parser = RecipeParser(program="train", description="", example="")
    small, _ = parser.parse_words([*words, *steps, *overrides])
    for field in ("optimizer", "nesterov", "lr", "lr_batch_size", "weight_decay", "schedule", "keep"):
        assert getattr(small, field) == getattr(recipe, field)
    result = train(small, progress=False)
    assert result.steps == (2 if recipe.iterations else 3)
    assert result.test["num_samples"] > 0
