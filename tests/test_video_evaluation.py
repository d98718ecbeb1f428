"""Figures on videos, against slow loops and scikit-learn's."""

import warnings

import pytest
import torch
import torch.distributed as dist
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.data.video.dataset import CentreClip, RandomClip, VideoClips, Views
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.tasks.evaluation import _ClassesTally, _ClassTally, evaluate
from nonlocalnn.tasks.figures import average_precision
from nonlocalnn.tasks.probabilities import class_probabilities
from tolerances import NETWORK, assert_near, near
from videos import cut, grey_frames, write_video

CLASSES = ("a", "b", "c", "d", "e", "f", "g")
NUM_VIDEOS = 6
FIVE_VIEWS = Views(num_clips=5, num_crops=1, size=24)


class Brightness(nn.Module):
    """Scores that change steeply with the mean of a clip, so that views of a video disagree."""

    def __init__(self, num_classes=7):
        super().__init__()
        self.register_buffer("weight", 9 * torch.randn(num_classes))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x):
        return 5 * torch.sin(self.dropout(x).mean((1, 2, 3, 4))[:, None] * self.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number}.mp4", grey_frames(7 * number + 4, 24, 30))
    cut(folder / "0.mp4", folder / "cut.mp4")
    return folder


def listed(folder, *names, multi_label=False):
    names = names or [f"{number}.mp4" for number in range(NUM_VIDEOS)]
    targets = [place % 7 for place in range(len(names))]
    if multi_label:
        targets = [tuple({target, 2 * target % 5}) if target else () for target in targets]
    return VideoList(tuple(folder / name for name in names), tuple(targets), CLASSES, multi_label)


def clips_of(videos, sampling=FIVE_VIEWS, **settings):
    return VideoClips(videos, frames=3, stride=2, sampling=sampling, **settings)


def network(clips):
    """A network whose places and clips disagree, and none of which is sure."""
    model = randomize_(nl.create_model("c2d_tiny", num_classes=5)).eval()
    with torch.no_grad():
        deviation = model.fc(model.features(clips).flatten(2).transpose(1, 2)).std()
        model.fc.weight *= 3 / deviation
        model.fc.bias.zero_()
        model.fc.bias -= model(clips).mean(0)
    return model


def top_figures(probabilities, targets, classes):
    rows = _ClassTally.rows(probabilities.double(), targets)
    return _ClassTally.figures(rows, classes=classes, num_samples=len(targets))


def multi_label_figures(probabilities, shown, classes):
    rows = _ClassesTally.rows(probabilities.double(), shown)
    return _ClassesTally.figures(rows, classes=classes, num_samples=len(shown))


def slow(model, dataset, squash):
    """The mean of the probabilities of each view, one view at a time."""
    model.eval()
    rows = []
    for clips, _ in dataset:
        views = clips if clips.dim() == 5 else clips[None]
        rows.append(torch.stack([squash(model(view[None])[0]) for view in views]).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_are_averaged_and_not_scores(batch_size, multi_label):
    clips, model = torch.randn(2, 4, 3, 2, 5, 6), Brightness().eval()
    scores = model(clips.flatten(0, 1)).unflatten(0, (2, 4))
    squashed = scores.sigmoid() if multi_label else scores.softmax(2)
    found = class_probabilities(model, clips, multi_label=multi_label, batch_size=batch_size)
    assert_near(found.float(), squashed.mean(1))
    of_mean = scores.mean(1).sigmoid() if multi_label else scores.mean(1).softmax(1)
    assert (found - of_mean).abs().max() > 0.05
    one = class_probabilities(model, clips[1:], multi_label=multi_label, batch_size=batch_size)
    assert_near(one[0].float(), squashed[1].mean(0))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_residual_network_is_applied_everywhere(multi_label):
    clips = torch.randn(2, 3, 8, 160, 160) * torch.linspace(0, 2, 160)
    model = network(clips)
    maps = model.features(clips)
    assert maps.shape[-2:] == (10, 10)
    places = F.avg_pool3d(maps, (maps.shape[2], 7, 7), stride=1).flatten(2).transpose(1, 2)
    scores = model.fc(places)
    squashed = scores.sigmoid() if multi_label else scores.softmax(2)
    found = class_probabilities(model, clips[None], multi_label=multi_label, everywhere=True)[0]
    assert_near(found.float(), squashed.mean((0, 1)))
    centre = class_probabilities(model, clips[None], multi_label=multi_label)[0]
    pooled = model(clips).sigmoid() if multi_label else model(clips).softmax(1)
    assert_near(centre.float(), pooled.mean(0))
    whole = model(clips)
    pooled = whole.sigmoid() if multi_label else whole.softmax(1)
    assert (found - pooled.mean(0)).abs().max() > 1e-3


def test_half_precision_is_averaged_in_full():
    clips = torch.randn(2, 3, 8, 32, 32)
    model = network(clips)
    found = class_probabilities(model, clips[None], precision="bf16")
    assert found.dtype == torch.float64
    assert_near(found, class_probabilities(model, clips[None]), sums=NETWORK, dtype=torch.bfloat16)


def test_wrong_clips_and_batches():
    with pytest.raises(ValueError, match=r"views must be \(B, V, C, \*sides\).*got shape \(2, 5, 6\)"):
        class_probabilities(Brightness(), torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1; got 0"):
        class_probabilities(Brightness(), torch.zeros(1, 1, 3, 2, 5, 6), batch_size=0)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 12])
@pytest.mark.parametrize("sampling", [CentreClip(24), FIVE_VIEWS], ids=["clip", "views"])
def test_figures_equal_slow_loops(folder, sampling, batch_size, num_workers):
    dataset, model = clips_of(listed(folder), sampling), Brightness()
    probabilities = slow(model, dataset, lambda scores: scores.softmax(0))
    model.train()
    found = evaluate(model, dataset, batch_size=batch_size, num_workers=num_workers)
    assert model.training
    assert found.views == ("1 clip" if isinstance(sampling, CentreClip) else "5 views (5 clips x 1 crop)")
    assert (found.num_samples, found.unreadable) == (NUM_VIDEOS, ())
    targets = [target for _, target in dataset]
    predicted = probabilities.argmax(1).tolist()
    confusion = metrics.confusion_matrix(targets, predicted, labels=range(len(CLASSES)))
    assert found.confusion.tolist() == confusion.tolist()
    assert found.accuracy == near(metrics.accuracy_score(targets, predicted))
    logs = [-torch.log(row[target]) for row, target in zip(probabilities, targets, strict=True)]
    assert found.loss == near(float(torch.stack(logs).mean()))
    row = found.to_dict()
    assert row["views"] == found.views
    assert row["recall"]["g"] is None


def test_top_five():
    probabilities = torch.rand(200, 8)
    targets = torch.randint(0, 8, (200,))
    found = top_figures(probabilities, targets, tuple("abcdefgh"))
    expected = metrics.top_k_accuracy_score(targets, probabilities, k=5)
    assert found.top5_accuracy == near(expected)
    assert found.accuracy < found.top5_accuracy < 1
    assert found.headline == f"accuracy {found.accuracy:.4f} (top-5 {expected:.4f})"
    few = top_figures(probabilities[:, :3], targets % 3, tuple("abc"))
    assert few.top5_accuracy == 1


def test_a_probability_of_zero_costs_a_finite_loss():
    found = top_figures(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), ("a", "b"))
    assert found.loss == 100


@pytest.mark.parametrize("levels", [0, 4], ids=["distinct", "ties"])
def test_average_precision_equals_scikit_learn(levels):
    for _ in range(20):
        values, shown = torch.rand(40), torch.rand(40) < 0.3
        shown[0] = True
        if levels:
            values = (values * levels).floor() / levels
        expected = metrics.average_precision_score(shown, values)
        assert average_precision(values, shown) == near(expected)


def test_classes_that_no_video_shows_are_left_out_and_counted():
    probabilities, shown = torch.rand(30, 4), torch.rand(30, 4) < 0.4
    shown[:, 2] = False
    found = multi_label_figures(probabilities, shown, tuple("abcd"))
    kept = [0, 1, 3]
    expected = metrics.average_precision_score(shown[:, kept], probabilities[:, kept], average="macro")
    assert found.mean_average_precision == near(expected)
    row = found.to_dict()
    assert (row["num_undefined"], row["average_precision"]["c"]) == (1, None)
    assert found.headline == f"mean average precision {expected:.4f} (over 3 of 4 classes)"
    nothing = multi_label_figures(probabilities, torch.zeros_like(shown), tuple("abcd")).to_dict()
    assert (nothing["mean_average_precision"], nothing["num_undefined"]) == (None, 4)


def test_several_labels(folder):
    dataset, model = clips_of(listed(folder, multi_label=True)), Brightness()
    probabilities = slow(model, dataset, torch.sigmoid)
    shown = torch.stack([target for _, target in dataset])
    assert shown.sum(1).tolist()[:3] == [0, 2, 2]
    found = evaluate(model, dataset).to_dict()
    assert found["loss"] == near(float(F.binary_cross_entropy(probabilities, shown)))
    for place, name in enumerate(CLASSES):
        if shown[:, place].any():
            expected = metrics.average_precision_score(shown[:, place], probabilities[:, place])
            assert found["average_precision"][name] == near(expected)
        else:
            assert found["average_precision"][name] is None


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("batch_size", [1, 30])
def test_videos_that_cannot_be_read_are_listed_and_in_no_figure(folder, multi_label, batch_size):
    names = ("cut.mp4", "0.mp4", "1.mp4", "none.mp4", "2.mp4", "3.mp4", "4.mp4")
    videos = listed(folder, *names, multi_label=multi_label)
    model = Brightness()
    found = evaluate(model, clips_of(videos, max_broken=2), batch_size=batch_size)
    assert found.unreadable == (str(folder / "cut.mp4"), str(folder / "none.mp4"))
    assert found.num_samples == 5
    assert " on 5 of 7 samples of some/test, 5 views (5 clips x 1 crop)" in found.describe("some/test")
    kept = [place for place, name in enumerate(names) if name not in ("cut.mp4", "none.mp4")]
    rest = VideoList(
        tuple(videos.paths[place] for place in kept),
        tuple(videos.targets[place] for place in kept),
        CLASSES,
        multi_label,
    )
    without = evaluate(model, clips_of(rest), batch_size=batch_size)
    assert {**found.to_dict(), "unreadable": []} == without.to_dict()


def test_wrong_inputs(folder):
    random = RandomClip(short_sides=(24, 24), crop_size=24)
    with pytest.raises(ValueError, match="by CentreClip or Views, not by clips at random places"):
        evaluate(Brightness(), clips_of(listed(folder), random))
    with pytest.raises(ValueError, match=r"the model's output must be \(B, 7\).*got \(1, 4\)"):
        evaluate(Brightness(4), clips_of(listed(folder)))
    nothing = clips_of(listed(folder, "cut.mp4", "none.mp4"), max_broken=2)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="2 of 2 videos"):
        evaluate(Brightness(), nothing)


def _rank(rank, store, model, names, folder, answers):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    dataset = clips_of(listed(folder, *names), max_broken=2)
    try:
        answer = evaluate(model, dataset, distributed=True).to_dict()
    except ValueError as error:
        answer = str(error)
    torch.save(answer, answers / f"{rank}.pt")
    dist.destroy_process_group()


def on_two_ranks(tmp_path, model, names, folder):
    arguments = (tmp_path / "store", model, names, folder, tmp_path)
    torch.multiprocessing.start_processes(_rank, arguments, nprocs=2, start_method="fork")
    return [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]


@pytest.mark.filterwarnings("ignore:left out", "ignore:This process:DeprecationWarning")
def test_ranks_share_the_videos(folder, tmp_path):
    names, model = ("0.mp4", "1.mp4", "cut.mp4", "2.mp4", "3.mp4"), Brightness()
    alone = evaluate(model, clips_of(listed(folder, *names), max_broken=1)).to_dict()
    assert alone["num_samples"] == 4
    assert on_two_ranks(tmp_path, model, names, folder) == [alone, alone]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("names", "says"), [(("0.mp4",), None), (("cut.mp4", "none.mp4"), "none of the 2")])
def test_ranks_without_a_video(folder, tmp_path, names, says):
    for answer in on_two_ranks(tmp_path, Brightness(), names, folder):
        if says is None:
            assert answer["num_samples"] == 1
        else:
            assert answer.startswith(says)
