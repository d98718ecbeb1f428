"""Answers for video files: by which views, of which frames, and why there is none."""

import pytest
import torch
from torch import nn

from nonlocalnn.data.video.clips import MEAN, STANDARD_DEVIATION
from nonlocalnn.data.video.dataset import CentreClip, VideoClips, Views
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.inference import Classifier
from tolerances import assert_near, assert_same, near
from videos import cut, write_video

CLASSES = ("a", "b", "c", "d")
FACTS = {
    "classes": CLASSES,
    "sample_shape": (3, 3, 16, 16),
    "stride": 2,
    "test_size": 24,
    "mean": MEAN,
    "standard_deviation": STANDARD_DEVIATION,
    "recipe": {},
}


def answers(model, paths, facts=FACTS, **settings):
    return list(Classifier(model, **facts).predict_many(paths, **settings))


class Recorder(nn.Module):
    """Scores that follow from the mean of a clip; keeps the clips that it has seen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(9 * torch.randn(len(CLASSES)))
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return 5 * torch.sin(x.mean((1, 2, 3, 4))[:, None] * self.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "whole.mp4")
    cut(folder / "whole.mp4", folder / "cut.mp4")
    return folder


def items(folder, sampling, **settings):
    videos = VideoList((folder / "whole.mp4",), (0,), CLASSES)
    return VideoClips(videos, frames=3, stride=2, sampling=sampling, **settings)[0][0]


@pytest.mark.parametrize(
    ("views", "name", "sampling"),
    [(1, "1 clip", CentreClip(24)), (30, "30 views (10 clips x 3 crops)", Views(size=24))],
    ids=["clip", "views"],
)
def test_each_answer_names_its_views(folder, views, name, sampling):
    model = Recorder().train()
    path = folder / "whole.mp4"
    (answer,) = answers(model, [path], views=views, batch_size=7, top=2)
    assert not model.training
    assert list(answer) == ["path", "views", "class", "probability", "top"]
    assert (answer["path"], answer["views"]) == (str(path), name)
    # Views go through the network in their order, all of them, and in parts.
    clips = items(folder, sampling).view(views, 3, 3, 24, 24)
    assert [len(part) for part in model.seen] == [7] * (views // 7) + [views % 7]
    assert_same(torch.cat(model.seen), clips)
    expected, order = model(clips).softmax(1).mean(0).sort(descending=True)
    assert [row["class"] for row in answer["top"]] == [CLASSES[place] for place in order[:2]]
    assert [row["probability"] for row in answer["top"]] == near(expected[:2].tolist())
    assert {"class": answer["class"], "probability": answer["probability"]} == answer["top"][0]


def test_the_two_modes_differ(folder):
    model = Recorder()
    one, many = (answers(model, [folder / "whole.mp4"], views=views)[0] for views in (1, 30))
    assert one["views"] != many["views"]
    assert abs(one["probability"] - many["probability"]) > 1e-3


def test_several_classes_have_probabilities_of_their_own(folder):
    model = Recorder()
    path = folder / "whole.mp4"
    (answer,) = answers(model, [path], {**FACTS, "multi_label": True}, top=4)
    expected = model(items(folder, CentreClip(24))[None]).sigmoid()[0].sort(descending=True).values
    assert [row["probability"] for row in answer["top"]] == near(expected.tolist())


def test_values_are_normalised_as_asked(folder):
    model = Recorder()
    path = folder / "whole.mp4"
    answers(model, [path])
    answers(model, [path], {**FACTS, "mean": 0.0, "standard_deviation": 255.0})
    first, second = model.seen
    assert 0 <= second.min() < second.max() <= 1
    assert_near(first * STANDARD_DEVIATION + MEAN, second * 255)


def test_broken_videos_say_why_and_stop_nothing(folder):
    paths = [folder / name for name in ("cut.mp4", "whole.mp4", "none.mp4")]
    cut_one, whole, none = answers(Recorder(), paths)
    assert set(cut_one) == {"path", "error"}
    assert "cut.mp4: it is cut" in cut_one["error"]
    assert whole["class"] in CLASSES
    assert none["error"] == f"no such video: {paths[2]}"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"views": 3}, "views must be one of 1, 30; got 3"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"top": 0}, "top must be a whole number of at least 1"),
        ({"precision": "fp8"}, "precision must be one of"),
    ],
    ids=str,
)
def test_wrong_settings(folder, settings, says):
    with pytest.raises(ValueError, match=says):
        answers(Recorder(), [folder / "whole.mp4"], **settings)
