"""Segmentation as a task: loss, figures, windows, and a run that is killed and goes on."""

import itertools
import math

import pytest
import torch
from PIL import Image
from sklearn import metrics
from tiny_task import assert_identical, final_state
from torch import nn
from torch.nn import functional as F

from mask_pictures import write_folder
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.data.masks import IGNORED, load_masks
from nonlocalnn.tasks.choice import task_of, trained_task
from nonlocalnn.tasks.mask_figures import SegmentationFigures
from nonlocalnn.tasks.masks import (
    evaluate_masks,
    image_scores,
    labels_of,
    shares_of,
    window_starts,
)
from nonlocalnn.tasks.segmentation import pixel_loss
from nonlocalnn.train import ClassificationTask, Recipe, SegmentationTask, train
from nonlocalnn.train.few_samples import fitted_recipe
from tolerances import assert_near, assert_same, near


class Fixed(nn.Module):
    """Gives each pixel the class that its red says: 0.1 a class, and a tenth off."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        centres = torch.arange(self.num_classes).view(1, -1, 1, 1) / 10
        return -100 * (x[:, :1] - centres).abs() + self.weight


class Painted:
    """Images and masks in memory, as a data set gives them."""

    classes = ("a", "b", "c")
    sample_shape = (3, 4, 5)

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def image_of(labels):
    return (torch.tensor(labels) / 10).float().expand(3, -1, -1).contiguous()


def test_the_data_decides_the_task():
    assert isinstance(task_of(Recipe(data="segment-cue")), SegmentationTask)
    assert isinstance(task_of(Recipe(data="segment-cue", task="segmentation")), SegmentationTask)
    assert isinstance(task_of(Recipe()), ClassificationTask)
    assert trained_task({}) == "classification"
    with pytest.raises(ValueError, match="task must be one of"):
        trained_task({"task": "keypoints"})


def test_loss_leaves_out_what_is_ignored_and_weighs_classes():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4, 5, requires_grad=True)
    masks = torch.randint(3, (2, 4, 5))
    masks[0, :2] = IGNORED
    by_hand = [
        -torch.log_softmax(scores[b, :, y, x], 0)[masks[b, y, x]]
        for b in range(2)
        for y in range(4)
        for x in range(5)
        if masks[b, y, x] != IGNORED
    ]
    assert_near(pixel_loss(scores, masks), torch.stack(by_hand).mean())
    weights = (0.5, 1.0, 2.0)
    assert_near(
        pixel_loss(scores, masks, weights),
        F.cross_entropy(scores, masks, weight=torch.tensor(weights), ignore_index=IGNORED),
    )
    # In half precision the sums are float32's: 300 x 300 pixels weigh what they weigh.
    halves, many = (
        torch.zeros(1, 3, 300, 300, dtype=torch.bfloat16),
        torch.ones(1, 300, 300, dtype=torch.long),
    )
    for each in (None, weights):
        assert_near(pixel_loss(halves, many, each), torch.tensor(math.log(3)))
    # A square cut at random may have no pixel with a class: PyTorch's own mean is not a number there.
    nothing = torch.full_like(masks, IGNORED)
    for each in (None, weights):
        loss = pixel_loss(scores, nothing, each)
        assert loss.item() == 0
        assert_same(torch.autograd.grad(loss, scores)[0], torch.zeros_like(scores))


def test_a_second_head_adds_to_the_loss():
    task = SegmentationTask(Recipe(data="segment-cue"))

    class Two(nn.Module):
        def forward(self, x):
            return {"out": x, "aux": 2 * x}

    scores, masks = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5), dtype=torch.uint8)
    loss, logs = task.loss(Two(), (scores, masks))
    expected = F.cross_entropy(scores, masks.long()) + 0.4 * F.cross_entropy(2 * scores, masks.long())
    assert_near(loss, expected)
    assert float(logs["pixel_accuracy"]) == near(float((scores.argmax(1) == masks).float().mean()))


def test_figures_follow_from_one_matrix_over_the_set():
    # By hand: of class b one pixel of three is found, and one a is called b.
    truth = [[0, 0, 1, IGNORED], [1, 1, 2, 2]]
    found = [[0, 1, 1, 2], [0, 0, 2, 2]]
    image = image_of(found)
    halves = [
        (image[:, row : row + 1], torch.tensor(truth[row : row + 1], dtype=torch.uint8)) for row in (0, 1)
    ]
    figures = evaluate_masks(Fixed(), Painted(halves))
    assert figures.confusion.tolist() == [[1, 1, 0], [2, 1, 0], [0, 0, 2]]
    assert figures.iou == near([1 / 4, 1 / 4, 1.0])
    assert figures.mean_iou == near(0.5)
    assert figures.accuracy == near(4 / 7)
    assert figures.recall == near([1 / 2, 1 / 3, 1.0])
    assert figures.num_samples == 2
    values = figures.to_dict()
    assert values["iou"] == near({"a": 0.25, "b": 0.25, "c": 1.0})
    assert "mean IoU 0.5000 (over 3 of 3 classes)" in figures.describe("some/test")
    assert figures.per_class_table().splitlines()[2].split() == ["b", "42.86%", "0.2500", "0.3333"]


def test_figures_equal_scikit_learns():
    torch.manual_seed(1)
    pairs = []
    for _ in range(4):
        labels, truth = torch.randint(3, (4, 5)), torch.randint(3, (4, 5), dtype=torch.uint8)
        truth[0, 0] = IGNORED
        pairs.append((image_of(labels.tolist()), truth))
    figures = evaluate_masks(Fixed(), Painted(pairs))
    known = torch.stack([truth for _, truth in pairs]) != IGNORED
    true = torch.stack([truth for _, truth in pairs])[known].tolist()
    predicted = torch.stack([(10 * image[0]).round() for image, _ in pairs])[known].tolist()
    assert figures.iou == near(metrics.jaccard_score(true, predicted, average=None).tolist())
    assert figures.mean_iou == near(metrics.jaccard_score(true, predicted, average="macro"))
    assert figures.accuracy == near(metrics.accuracy_score(true, predicted))
    assert figures.confusion.tolist() == metrics.confusion_matrix(true, predicted).tolist()


def test_a_class_that_is_nowhere_is_in_no_mean():
    confusion = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    figures = SegmentationFigures(loss=0.0, classes=("a", "b", "c"), num_samples=1, confusion=confusion)
    assert math.isnan(figures.iou[2])
    assert figures.mean_iou == near((3 / 4 + 2 / 3) / 2)
    assert figures.to_dict()["iou"]["c"] is None
    assert "over 2 of 3 classes" in figures.headline


def test_the_loss_is_the_mean_over_all_pixels():
    labels = [[0, 1, 2], [2, 2, 2]]
    truth = torch.tensor([[0, 1, 1], [2, 0, IGNORED]], dtype=torch.uint8)
    image = image_of(labels)
    figures = evaluate_masks(Fixed(), Painted([(image, truth), (image[:, :1], truth[:1])]))
    scores = Fixed()(image[None]).double()
    first = F.cross_entropy(scores, truth[None].long(), ignore_index=IGNORED, reduction="sum")
    second = F.cross_entropy(scores[:, :, :1], truth[None, :1].long(), reduction="sum")
    assert figures.loss == near(((first + second) / 8).item())


def test_answers_are_compared_at_the_size_of_the_mask():
    small = [[0, 2]]
    truth = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2]], dtype=torch.uint8)
    figures = evaluate_masks(Fixed(), Painted([(image_of(small), truth)]))
    assert int(figures.confusion.sum()) == 8


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([], "empty data set"),
        ([(torch.zeros(3, 2, 2), torch.full((2, 2), IGNORED, dtype=torch.uint8))], "all masks are 255"),
    ],
    ids=["empty", "ignored"],
)
def test_nothing_to_evaluate(pairs, says):
    with pytest.raises(ValueError, match=says):
        evaluate_masks(Fixed(), Painted(pairs))


def test_scores_of_other_classes():
    pair = (torch.zeros(3, 2, 2), torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="must be of the 3 classes of this data set; got 2"):
        evaluate_masks(Fixed(2), Painted([pair]))
    with pytest.raises(ValueError, match="must return scores for each pixel"):
        evaluate_masks(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), Painted([pair]))


def test_windows_cover_an_image_and_average():
    for side in range(1, 40):
        starts = window_starts(side, 9)
        covered = {place for start in starts for place in range(start, start + 9)}
        assert set(range(side)) <= covered
        assert starts == sorted(starts)
        assert starts[-1] == max(0, side - 9)
        assert all(later - earlier <= 6 for earlier, later in itertools.pairwise(starts))
    # What looks at a pixel alone answers alike by windows; what looks at the whole does not.
    model, image = nn.Conv2d(3, 4, 1), torch.randn(1, 3, 20, 31)
    with torch.no_grad():
        assert_near(image_scores(model, image, window=8), model(image))
        whole = image_scores(model, image, window=31)
        assert_same(whole, model(image))

        class Mean(nn.Module):
            def forward(self, x):
                return x.mean((2, 3), keepdim=True).expand_as(x)

        by_windows = image_scores(Mean(), image, window=20)
        # Two windows of 20 columns: the middle is the mean of both.
        left, right = image[..., :20].mean((2, 3)), image[..., 11:].mean((2, 3))
        assert_near(by_windows[0, :, 0, 0], left[0])
        assert_near(by_windows[0, :, 0, 30], right[0])
        assert_near(by_windows[0, :, 0, 15], (left[0] + right[0]) / 2)


def test_labels_of_many_classes_are_found_in_parts():
    torch.manual_seed(0)
    scores = torch.randn(1, 37, 5, 7)
    expected = F.interpolate(scores, size=(11, 9), mode="bilinear", align_corners=False)[0].argmax(0)
    assert_same(labels_of(scores, (11, 9)), expected)
    assert_same(labels_of(scores, (5, 7)), scores[0].argmax(0))
    assert [each["id"] for each in shares_of(torch.tensor([[3, 1], [1, 1]]), "abcd")] == [1, 3]
    with pytest.raises(ValueError, match="not finite"):
        labels_of(torch.full((1, 2, 3, 3), math.nan), (3, 3))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "nl_digits"}, "'nl_digits' is for classification and gives one answer a sample"),
        ({"channels": 1}, "channels has no effect on images with masks"),
        ({"image_size": 32}, "image_size has no effect on 'segment-cue'"),
        ({"data": "segment-legend", "window": 32}, "window has no effect on 'segment-legend'"),
        ({"class_weights": (1.0, 0.0, 1.0)}, "class_weights must be greater than zero"),
        ({"max_broken": 3}, "max_broken has an effect only with files"),
        ({"test_views": 1}, "test_views has an effect only with videos"),
        ({"scales": (2.0, 1.0)}, "scales must ascend"),
        ({"data": "masks", "scales": (1.0, 2.0), "augment": False}, "only with augment=True"),
    ],
)
def test_settings_that_do_not_fit(settings, says):
    with pytest.raises(ValueError, match=says):
        SegmentationTask(Recipe(**{"data": "segment-cue", **settings}))


def test_settings_of_masks_on_other_data():
    with pytest.raises(ValueError, match="resize has an effect only with images or volumes with masks"):
        Recipe(data="digits", resize=64)
    with pytest.raises(ValueError, match="'fcn_tiny' is for segmentation and gives a class for each pixel"):
        ClassificationTask(Recipe(data="digits", model="fcn_tiny"))


def test_what_is_left_open_fits_the_data():
    own = SegmentationTask(Recipe(data="masks", data_dir="x")).recipe
    assert (own.model, own.image_size, own.resize) == ("nl_fcn_tiny", 128, 160)
    named = SegmentationTask(Recipe(data="voc", data_dir="x", model="nl_fcn_r50")).recipe
    assert (named.image_size, named.resize) == (512, None)
    assert fitted_recipe(named, 10_000).batch_size == 16
    assert fitted_recipe(named, 12).batch_size == 2


def test_weights_of_another_number_of_classes(tmp_path):
    write_folder(tmp_path)
    task = SegmentationTask(Recipe(data="masks", data_dir=tmp_path, class_weights=(1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="one number for each of the 2 classes of 'masks'; got 3"):
        task.model(task.data("train"))


def recipe_of(root, output, **changes):
    settings = {
        "data": "masks",
        "data_dir": root,
        "output": output,
        "image_size": 24,
        "resize": 24,
        "batch_size": 4,
        "epochs": 3,
        "lr": 0.01,
        "schedule": "cosine",
        "device": "cpu",
        "seed": 3,
        **changes,
    }
    return Recipe(**settings)


class Stopping(SegmentationTask):
    """Sends the process a signal during its third step."""

    calls = 0

    def loss(self, model, batch):
        Stopping.calls += 1
        if Stopping.calls == 3:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return super().loss(model, batch)


@pytest.mark.slow  # as of videos and of steps
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    root = write_folder(tmp_path / "data", train=9)
    whole = train(recipe_of(root, tmp_path / "whole"), progress=False)
    assert whole.metric == "mean_iou"
    stopped = recipe_of(root, tmp_path / "parts")
    task = Stopping(stopped)
    assert train(task.recipe, task=task, progress=False).interrupted
    result = train(stopped, resume=True, progress=False)
    assert not result.interrupted
    assert_identical(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
    assert result.test == whole.test


def test_a_checkpoint_says_what_an_image_becomes(tmp_path):
    root = write_folder(tmp_path / "data")
    result = train(recipe_of(root, tmp_path / "run", epochs=1, window=20), progress=False)
    facts = read_metadata(tmp_path / "run/best.safetensors")
    assert (facts["task"], facts["classes"]) == ("segmentation", ["background", "square"])
    assert (facts["resize"], facts["window"], facts["sample_shape"]) == (24, 20, [3, 24, 24])
    assert facts["validation_mean_iou"] == result.best_metric
    assert set(result.test["iou"]) == {"background", "square"}
    assert load_masks("masks", "test", data_dir=root, resize=24)[0][0].shape == (3, 24, 40)
    with Image.open(root / "test/masks/test-0.png") as mask:
        assert mask.size == (40, 24)
