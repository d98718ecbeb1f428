"""Labels of volumes: windows, figures, and the task that learns them."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.volume_files import AFFINE, ball, write_nifti
from nonlocalnn.data.volumes.masked import load_volume_masks
from nonlocalnn.data.volumes.reading import Reading, Sampled
from nonlocalnn.data.volumes.volume import Volume
from nonlocalnn.models import create_model
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.tasks.volume_figures import dice_of, hausdorff_95
from nonlocalnn.tasks.volume_masks import evaluate_volumes
from nonlocalnn.tasks.volume_segmentation import VolumeSegmentationTask, soft_dice
from nonlocalnn.tasks.volume_windows import score_slabs, volume_labels, window_starts
from tolerances import assert_near, assert_same

SIDES = (11, 9, 14)


def sampled(sides=SIDES, spacing=None, seed=0):
    array = np.random.default_rng(seed).normal(size=(1, *sides)).astype(np.float32)
    return Sampled(Volume(array, np.eye(4)[[2, 1, 0, 3]], Path("a.npy")), Reading(spacing))


@pytest.mark.parametrize("side", [1, 5, 6, 7, 13, 40])
@pytest.mark.parametrize("window", [1, 2, 5, 6])
def test_windows_cover_a_side_and_overlap(side, window):
    starts = window_starts(side, window, overlap=1 / 2)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] + window >= side
    assert starts[-1] == max(0, side - window)
    # Half of a window lies in the next one, but for windows that cannot be halved.
    assert all(later - earlier <= max(1, window // 2) for earlier, later in pairwise(starts))


@pytest.mark.parametrize("window", [3, 4, 6, 20])
def test_where_a_voxel_is_seen_alone_windows_change_nothing(window):
    torch.manual_seed(0)
    model, volume = nn.Conv3d(1, 3, 1).eval(), sampled()
    slabs = list(score_slabs(model, volume, window=window))
    assert [first for first, _ in slabs] == [
        sum(scores.shape[1] for _, scores in slabs[:place]) for place in range(len(slabs))
    ]
    found = torch.cat([scores for _, scores in slabs], 1)
    with torch.no_grad():
        assert_near(found, model(volume.whole()[None])[0])
        assert_same(volume_labels(model, volume, window=window), found.argmax(0).to(torch.uint8))


class _Edge(nn.Module):
    """Gives 1 at the edge of what it is given, and 0 inside: what no window should be asked."""

    def forward(self, x):
        y = torch.zeros(1, 1, *x.shape[2:])
        for axis in (2, 3, 4):
            for place in (0, -1):
                y.select(axis, place).fill_(1)
        return y


def test_edges_of_windows_weigh_little():
    slabs = score_slabs(_Edge(), sampled((24, 24, 24)), window=12)
    found = torch.cat([scores for _, scores in slabs], 1)[0]
    inside = found[6:-6, 6:-6, 6:-6]
    assert float(inside.max()) < 0.2
    assert float(found[0].min()) == 1.0


def test_no_more_than_a_window_is_read_at_a_time():
    volume, read = sampled(), []

    class Watched(Sampled):
        def box(self, start, stop):
            read.append([high - low for low, high in zip(start, stop, strict=True)])
            return super().box(start, stop)

    watched = Watched(volume.volume, volume.reading)
    labels = volume_labels(nn.Conv3d(1, 2, 1).eval(), watched, window=4)
    assert labels.shape == SIDES
    assert {side for sides in read for side in sides} == {4}


def test_labels_are_of_the_files_own_voxels():
    volume = sampled(spacing=(2.0, 0.5, 1.0))
    assert volume.sides == (6, 18, 14)
    labels = volume_labels(nn.Conv3d(1, 2, 1).eval(), volume, window=8)
    assert labels.shape == SIDES


def test_what_is_no_answer():
    with pytest.raises(ValueError, match="must return scores for each voxel"):
        volume_labels(nn.Conv3d(1, 2, 3).eval(), sampled(), window=4)
    broken = nn.Conv3d(1, 2, 1).eval()
    with torch.no_grad():
        broken.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="answer is not finite"):
        volume_labels(broken, sampled(), window=4)
    with pytest.raises(ValueError, match="window must be a whole number"):
        volume_labels(broken, sampled(), window=0)


def brute_hausdorff(one, other, spacing):
    """Return the same from the definition, all distances in memory."""

    def surface(body):
        padded = np.pad(body, 1)
        found = []
        for place in np.argwhere(body):
            z, y, x = place + 1
            near = [padded[z + 1, y, x], padded[z - 1, y, x], padded[z, y + 1, x], padded[z, y - 1, x]]
            if not all([*near, padded[z, y, x + 1], padded[z, y, x - 1]]):
                found.append(place * np.asarray(spacing))
        return np.array(found)

    first, second = surface(one), surface(other)
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


@pytest.mark.parametrize("seed", range(4))
def test_the_hausdorff_distance_equals_its_definition(seed):
    generator = np.random.default_rng(seed)
    one, other = (ball(generator, (12, 11, 10), radius=radius)[1] for radius in (2.5, 3.2))
    if seed == 3:
        one = generator.random(one.shape) < 0.3  # no body at all, and voxels at the edge
    spacing = (2.0, 0.7, 1.1)
    assert hausdorff_95(one, other, spacing) == pytest.approx(brute_hausdorff(one, other, spacing))
    assert hausdorff_95(other, one, spacing) == pytest.approx(hausdorff_95(one, other, spacing))
    assert hausdorff_95(one, one, spacing) == 0


def test_a_body_that_is_not_there_has_no_distance():
    one, none = np.ones((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool)
    assert math.isnan(hausdorff_95(one, none, (1, 1, 1)))
    assert math.isnan(hausdorff_95(none, one, (1, 1, 1)))
    assert math.isnan(dice_of(torch.tensor([[5, 0], [0, 0]]))[1])


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """A folder of volumes with masks: two of each split, one more to train on."""
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    root, generator = tmp_path_factory.mktemp("balls"), np.random.default_rng(0)
    for split, number in (("train", 3), ("validation", 1), ("test", 2)):
        for place in range(number):
            array, mask = ball(generator)
            write_nifti(root / split / f"images/{place}.nii.gz", array, AFFINE, dtype=np.float32)
            write_nifti(root / split / f"masks/{place}.nii.gz", mask, AFFINE, dtype=np.uint8)
    (root / "classes.txt").write_text("background\nball\n")
    return root


class _Threshold(nn.Module):
    """Says "ball" where a voxel is above half, by the normalisation that the volume has."""

    def __init__(self, shift=0):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.shift = shift

    def forward(self, x):
        is_ball = (x > 0.5).float().roll(self.shift, 3)
        return torch.cat([1 - is_ball, is_ball], 1)


@pytest.mark.parametrize("window", [6, 40])
def test_figures_are_those_of_whole_volumes(balls, window):
    data = load_volume_masks(balls, "test", reading=Reading(intensity=(-1.0, 1.0)))
    found = evaluate_volumes(_Threshold(), data, window=window)
    both = sizes = 0
    for number in range(2):
        volume, mask = data.open(number)
        truth = data.ids(mask, (0, 0, 0), mask.sides) == 1
        labels = volume.whole()[0] > 0.5
        both, sizes = int((truth & labels).sum()), int(truth.sum() + labels.sum())
        assert found.volumes[number].dice[1] == pytest.approx(2 * both / sizes)
        assert found.volumes[number].hausdorff[1] == pytest.approx(
            hausdorff_95(labels.numpy(), truth.numpy(), (1.5, 2.0, 1.0))
        )
    assert found.mean_dice == pytest.approx(np.mean([each.dice[1] for each in found.volumes]))
    assert int(found.confusion.sum()) == 2 * 20 * 18 * 16
    report = json.loads(json.dumps(found.to_dict()))
    assert report["mean_dice"] == found.mean_dice
    assert set(report["dice"]) == {"background", "ball"}
    assert report["mean_hausdorff_95_mm"] == pytest.approx(found.mean_hausdorff)
    assert "Dice" in found.per_class_table()
    # Apart by a known way, surfaces are that many millimetres apart: rows are 2 mm from one another.
    moved = evaluate_volumes(_Threshold(shift=1), data, window=40)
    assert moved.mean_hausdorff == pytest.approx(2, abs=1.2)
    assert moved.mean_dice < found.mean_dice
    assert evaluate_volumes(_Threshold(), data, window=40, surfaces=False).mean_hausdorff is None


def test_scores_of_other_classes_are_refused(balls):
    data = load_volume_masks(balls, "test")
    with pytest.raises(ValueError, match="scores must be of the 2 classes of this data set; got 3"):
        evaluate_volumes(nn.Conv3d(1, 3, 1), data, window=8)


def recipe(balls, **settings):
    return Recipe(data="volume-masks", data_dir=balls, **settings)


def test_a_recipe_of_volumes_is_completed(balls):
    task = task_of(recipe(balls))
    assert isinstance(task, VolumeSegmentationTask)
    assert (task.recipe.model, task.recipe.image_size, task.window) == ("nl_unet3d_tiny", 48, 48)
    larger = task_of(recipe(balls, model="unet3d", window=64))
    assert (larger.recipe.image_size, larger.window) == (96, 64)
    given = recipe(balls, spacing=(1.0, 1.0, 2.0), intensity=(-1.0, 1.0), patches=2)
    assert Recipe.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    data = task_of(given).data("train")
    assert (len(data), data.reading) == (6, Reading((1.0, 1.0, 2.0), (-1.0, 1.0)))
    assert [task_of(given).data(split).measures_surfaces for split in ("validation", "test")] == [False, True]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scales": (0.5, 2.0)}, "scales has no effect on volumes"),
        ({"resize": 100}, "resize has no effect on volumes"),
        ({"channels": 1}, "channels has no effect on volumes"),
        ({"model": "nl_fcn_tiny"}, "labels images, and this data is of volumes"),
        (
            {"model": "nl2_resnet3d_tiny"},
            "segmentation needs a class for each pixel: choose another, such as unet3d",
        ),
        ({"frames": 8}, "frames has an effect only with videos"),
        ({"spacing": (1.0, -1.0, 1.0)}, "spacing must be three numbers above zero"),
        ({"intensity": (1.0, 1.0)}, "intensity must be two numbers that ascend"),
    ],
)
def test_settings_that_do_not_fit(balls, settings, says):
    with pytest.raises(ValueError, match=says):
        task_of(recipe(balls, **settings))


def test_other_data_refuses_settings_of_volumes():
    with pytest.raises(
        ValueError, match="spacing has an effect only with volumes, data one of volumes, volume-masks"
    ):
        Recipe(spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="labels volumes, and this data is of images"):
        task_of(Recipe(data="segment-cue", model="unet3d_tiny"))


def test_the_loss_is_cross_entropy_and_overlap(balls):
    torch.manual_seed(0)
    task = task_of(recipe(balls))
    model = create_model("unet3d_tiny", width=4)
    patches, masks = torch.randn(2, 1, 12, 12, 12), torch.randint(0, 2, (2, 12, 12, 12), dtype=torch.uint8)
    masks[0, 0] = 255
    loss, logged = task.loss(model, (patches, masks))
    scores = model(patches)
    known = masks != 255
    picked = scores.log_softmax(1).gather(1, masks.long().where(known, 0)[:, None])[:, 0][known]
    expected = -picked.mean() + 1 - soft_dice(scores, masks.long())
    assert_near(loss, expected, sums=1000)
    assert set(logged) == {"voxel_accuracy"}
    loss.backward()
    assert all(value.grad is not None for value in model.parameters())


def test_overlap_goes_from_none_to_whole():
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    masks[:, 1] = 1
    sure = torch.stack([1.0 - masks, masks.float()], 1) * 40 - 20
    assert float(soft_dice(sure, masks)) == pytest.approx(1, abs=1e-6)
    assert float(soft_dice(-sure, masks)) < 0.05
    # What has no class counts for nothing, whatever is said of it.
    known = masks.clone()
    known[:, 0, 0] = 255
    assert float(soft_dice(sure, known)) == pytest.approx(1, abs=1e-6)
