"""What a run chooses and says where its recipe leaves things open."""

import inspect
import shutil
import warnings

import pytest
import torch
from PIL import Image
from tiny_task import TinyTask, tiny_recipe

from nonlocalnn.data import load_dataset
from nonlocalnn.train import ClassificationTask, Recipe, train
from nonlocalnn.train.few_samples import fitted_recipe
from nonlocalnn.train.opening import opening_lines, warn_of_missing_classes


@pytest.mark.parametrize(
    ("num_samples", "chosen"),
    [
        (3, (3, 1)),
        (16, (8, 2)),
        (160, (16, 10)),
        (319, (16, 16)),
        (320, (32, 8)),
        (1266, (64, 4)),
        (6399, (64, 4)),
        (6400, (64, 0)),
        (55000, (64, 0)),
    ],
)
def test_batches_and_norms_follow_the_number_of_samples(num_samples, chosen):
    fitted = fitted_recipe(Recipe(), num_samples)
    assert (fitted.batch_size, fitted.norm_batches) == chosen


@pytest.mark.parametrize(("accumulate", "world_size", "batch_size"), [(3, 1, 15), (1, 3, 15), (2, 16, 32)])
def test_batches_can_be_shared(accumulate, world_size, batch_size):
    assert fitted_recipe(Recipe(accumulate=accumulate), 160, world_size).batch_size == batch_size


def test_what_is_given_stays():
    given = Recipe(batch_size=10, norm_batches=0)
    assert fitted_recipe(given, 160) == given


@pytest.mark.parametrize(
    ("data", "chosen"),
    [
        ("digits", ("nl_digits", None)),
        ("mnist", ("nl_digits", None)),
        ("cue", ("nl2_c2d_tiny", None)),
        ("cue-sequence", ("nl2_c1d_tiny", None)),
        ("images", ("nl2_resnet_tiny", 64)),
        ("archives", ("nl2_resnet_tiny", 64)),
        ("videos", ("nl2_c2d_tiny", 64)),
    ],
)
def test_the_network_fits_the_data(data, chosen):
    recipe = ClassificationTask(Recipe(data=data)).recipe
    assert (recipe.model, recipe.image_size) == chosen
    named = Recipe(data=data, model=chosen[0])
    assert ClassificationTask(named).recipe == named


class LaggingTask(TinyTask):
    """Its network's norm sees values far from 0 and 1, where the running statistics begin."""

    def data(self, split):
        points = super().data(split)
        points.images = points.images * 40 + 3000
        return points


def test_few_steps_do_not_make_validation_look_broken(tmp_path):
    losses = {}
    for norm_batches in (0, None):
        recipe = tiny_recipe(tmp_path / str(norm_batches), epochs=1, norm_batches=norm_batches)
        train(recipe, task=LaggingTask(plain=False))
        (row,) = [line.split(",") for line in (recipe.output / "log.csv").read_text().splitlines()[1:]]
        losses[norm_batches] = float(row[5])
    assert losses[None] < losses[0] / 2


def write_photographs(folder, num_each=20):
    generator = torch.Generator().manual_seed(3)
    for target, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(num_each):
            pixels = torch.rand(30, 40, 3, generator=generator) * 90 + 150 * target
            Image.fromarray(pixels.byte().numpy()).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_of_photographs_trains_as_it_is(tmp_path, capsys):
    photographs = write_photographs(tmp_path / "photographs")
    recipe = Recipe(data="images", data_dir=photographs, epochs=2, device="cpu", output=tmp_path / "run")
    result = train(recipe, progress=None)
    assert result.test["accuracy"] == 1.0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("images: 2 classes (dark, light); 33 training, ")
    assert said[0].endswith("samples of 3 x 64 x 64")
    assert said[1].startswith("nl2_resnet_tiny: 169,770 parameters, on cpu; ")
    assert said[2] == (
        "chosen, and yours to set: image_size 64, model nl2_resnet_tiny, batch_size 8, norm_batches 4"
    )
    assert train(recipe, resume=True).test == result.test


def test_norms_are_not_spoken_of_without_any():
    recipe = Recipe(model="nl_digits", batch_size=8, norm_batches=4)
    for model, number, ending in (
        (torch.nn.Linear(2, 3), 9, ""),
        (torch.nn.BatchNorm1d(3), 6, ", norm_batches 4"),
    ):
        lines = opening_lines(
            Recipe(batch_size=8), recipe, sizes=(80, 9, 9), facts={}, model=model, device=torch.device("cpu")
        )
        assert lines == [
            "digits; 80 training, 9 validation and 9 test samples",
            f"nl_digits: {number} parameters, on cpu; batches of 8, 10 steps an epoch",
            f"chosen, and yours to set: model nl_digits{ending}",
        ]


def test_a_missing_test_split_is_heard_of_before_the_training(tmp_path):
    photographs = write_photographs(tmp_path / "photographs", num_each=1)
    recipe = Recipe(data="images", data_dir=photographs, device="cpu", output=tmp_path / "run")
    with pytest.raises(ValueError, match="falls to"):
        train(recipe)
    assert not (tmp_path / "run" / "log.csv").exists()


def test_one_class_alone_is_no_classification(tmp_path):
    photographs = write_photographs(tmp_path / "photographs")
    shutil.rmtree(photographs / "dark")
    recipe = Recipe(data="images", data_dir=photographs, device="cpu", output=tmp_path / "run")
    with pytest.raises(ValueError, match=r"at least two classes; 'images' in .*photographs has one, 'light'"):
        train(recipe)


def test_classes_that_a_split_lacks_are_warned_of(tmp_path):
    photographs = write_photographs(tmp_path / "photographs")
    data = {split: load_dataset("images", split, data_dir=photographs) for split in ("train", "test")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missing_classes({"training": data["train"], "test": data["test"], "other": [1, 2]})
    data["test"].targets = [1] * len(data["test"])
    with pytest.warns(UserWarning, match="^no test sample is of class dark: what is not in training"):
        # What is no labelled data is passed over, and what comes after it is not.
        warn_of_missing_classes({"other": [1, 2], "training": data["train"], "test": data["test"]})


@pytest.mark.parametrize(
    ("number", "more"), [(5, ": what"), (6, " and 1 more: what"), (8, " and 3 more: what")]
)
def test_five_missing_classes_are_named_and_the_others_counted(number, more):
    data = load_dataset("digits", "test")
    data.targets = [target % (10 - number) for target in data.targets]
    names = ", ".join(map(str, range(10 - number, min(10, 15 - number))))

    def trained():
        return (lambda: (lambda: warn_of_missing_classes({"test": data}))())()

    with pytest.warns(UserWarning, match=f"no test sample is of class {names}{more}") as caught:
        trained()
    # The line that called what trains.
    line = inspect.currentframe().f_lineno - 2
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
