"""Videos: clips at random places in training, the clip in the middle or 30 views in the test."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._names import VIDEO_SETS
from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.data.video import check_no_image, clips, open_video
from nonlocalnn.data.video.dataset import VideoClips
from nonlocalnn.data.video.files import find_videos
from nonlocalnn.data.video.named import load_video_set
from nonlocalnn.data.video.reader import VideoReader
from nonlocalnn.data.video.sampling import CentreClip, RandomClip, Views, WholeFrames, choose_sampling
from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput, shown_size
from nonlocalnn.tasks.networks import NamedNetwork, named_network
from nonlocalnn.tasks.recipe import Recipe


class Videos(InputKind):
    """Samples (C, T, H, W): clips of videos, and generated clips.

    Training sees random clips, validation the clip in the middle, the test the recipe's ``test_views``.
    """

    name = "video"
    samples = "clips"
    num_sides = 3
    datasets = (*VIDEO_SETS, "cue")
    of_files = VIDEO_SETS
    batch_size = 8
    views_a_file = True
    exceeds_training = True

    def network_for(self, data: str) -> str:
        """See :meth:`InputKind.network_for`."""
        return "nl2_c2d_tiny"

    def check(self, recipe: Recipe) -> None:
        """See :meth:`InputKind.check`: the network takes clips, and no number of channels is asked for."""
        if recipe.data not in VIDEO_SETS:
            return
        shape = _network(recipe).sample_shape
        if len(shape) != 4:
            raise ValueError(
                f"model {recipe.model!r} takes samples of shape {shape}, and {recipe.data!r} are "
                "videos: choose a network for clips, see nonlocalnn models"
            )
        if recipe.channels is not None:
            raise ValueError("channels applies to 'images' only; videos always have 3: leave it out")

    def dataset(self, recipe: Recipe, split: str) -> LabelledSamples:
        """See :meth:`InputKind.dataset`."""
        if recipe.data not in VIDEO_SETS:
            return super().dataset(recipe, split)
        size = _size(recipe)
        sampling: RandomClip | CentreClip | Views
        if split == "train":
            sides = clips.training_sides(size) if recipe.short_sides is None else recipe.short_sides
            sampling = RandomClip(sides, crop_size=size, flip=recipe.augment)
        else:
            sampling = choose_sampling(recipe.test_views if split == "test" else 1, size=_test_size(recipe))
        return VideoClips(
            load_video_set(recipe.data, split, data_dir=recipe.data_dir),
            frames=_network(recipe).sample_shape[1] if recipe.frames is None else recipe.frames,
            stride=_stride(recipe),
            sampling=sampling,
            backend=recipe.decoder,
            max_broken=recipe.max_broken,
            **_network(recipe).scale_for(3),
        )

    def metadata(self, recipe: Recipe, data: LabelledSamples) -> dict[str, Any]:
        """Return how a clip is made of a video; of generated clips nothing."""
        if not isinstance(data, VideoClips):
            return {}
        return {
            "image_size": [_size(recipe), _size(recipe)],
            "stride": _stride(recipe),
            "test_size": _test_size(recipe),
            "mean": data.mean,
            "standard_deviation": data.standard_deviation,
        }

    def test_data(self, facts: Facts, name: str, split: str, settings: dict[str, Any]) -> LabelledSamples:
        """See :meth:`InputKind.test_data`."""
        if name not in VIDEO_SETS:
            frames = facts.sample_shape[1]
            return load_dataset(name, split, image_size=facts.image_size, frames=frames, **settings)
        frames, size = facts.sample_shape[1], facts.video_size
        data = load_dataset(name, split, frames=frames, stride=facts.stride, image_size=size, **settings)
        return data.normalize(facts.mean, facts.standard_deviation)

    def views(self, number: int | None) -> str | None:
        """See :meth:`InputKind.views`: 1, the clip in the middle, or 30, 10 clips x 3 crops."""
        return choose_sampling(1 if number is None else number).name

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """See :meth:`InputKind.find`."""
        return find_videos(inputs)

    def read(self, path: Path, facts: Facts, *, views: int | None = None) -> Tensor:
        """See :meth:`InputKind.read`: uint8 (V, T, S, S, 3), S the size of the facts' videos."""
        sampling = choose_sampling(1 if views is None else views, size=facts.video_size)
        check_no_image(path)
        with open_video(path) as video:
            taken = sampling.take(video, frames=facts.sample_shape[1], stride=facts.stride)
        return taken.view(sampling.num_views, *taken.shape[-4:])

    def prepare(self, read: Tensor, facts: Facts) -> Tensor:
        """See :meth:`InputKind.prepare`.

        Memory: 12 x T x S x S bytes a view, and a quarter more.
        """
        return clips.normalize_clip(read, mean=facts.mean, standard_deviation=facts.standard_deviation)

    def show(self, path: Path, facts: Facts, *, whole: bool) -> ShownInput:
        """See :meth:`InputKind.show`: the clip in the middle, a square of it unless it is to be whole."""
        sampling = WholeFrames(facts.video_size) if whole else CentreClip(facts.video_size)
        frames = facts.sample_shape[1]
        check_no_image(path)
        with open_video(path) as video:
            watched = _WatchedReader(video, frames)
            taken = sampling.take(watched, frames=frames, stride=facts.stride)
            numbers = clips.centre_indices(video.num_frames, frames=frames, stride=facts.stride)
            rate, file_sides = video.frames_per_second, video.size
        return ShownInput(
            name=path.name,
            sample=self.prepare(taken, facts),
            pixels=_as_it_looks(taken),
            picture=_as_it_looks(watched.picture(numbers, whole=whole)),
            file_sides=file_sides,
            frame_numbers=tuple(numbers),
            seconds=None if rate is None else tuple(round(number / rate, 3) for number in numbers),
        )


def _network(recipe: Recipe) -> NamedNetwork:
    assert recipe.model is not None, "a task fills it in"
    return named_network(recipe.model)


class _WatchedReader(VideoReader):
    """A video whose frames, as they are read for a network, are kept for people in their own resolution.

    Args:
        video: Where frames come from.
        frames: How many a clip has, which says how large each may be kept.
    """

    def __init__(self, video: VideoReader, frames: int) -> None:
        rate = video.frames_per_second
        super().__init__(video.path, num_frames=video.num_frames, frames_per_second=rate, size=video.size)
        self._video, self._frames = video, frames
        self._kept: dict[int, Tensor] = {}

    def decode(self, indices: Sequence[int]) -> list[Tensor]:
        """See :meth:`VideoReader.decode`; few frames at a time come at their full size."""
        read = self._video.decode(indices)
        short = min(shown_size(*self.size, frames=self._frames))
        self._kept.update(zip(indices, clips.resize_short_side(torch.stack(read), short), strict=True))
        return read

    def picture(self, numbers: Sequence[int], *, whole: bool) -> Tensor:
        """Return what was read of a clip, uint8 (T, h, w, 3): its middle square, unless it is to be whole."""
        kept = torch.stack([self._kept[number] for number in numbers])
        return kept if whole else clips.even_crops(kept, min(kept.shape[1:3]), num_crops=1)[0]


def _as_it_looks(frames: Tensor) -> Tensor:
    """Return frames, uint8 (T, H, W, 3), as float32 (3, T, H, W) in [0, 1]."""
    return clips.normalize_clip(frames, mean=0.0, standard_deviation=255.0)


def _size(recipe: Recipe) -> int:
    """Return the side of the squares in training, in pixels."""
    return _network(recipe).sample_shape[-1] if recipe.image_size is None else recipe.image_size


def _test_size(recipe: Recipe) -> int:
    """Return the short side, and side of the squares, in validation and test, in pixels."""
    return clips.test_side(_size(recipe)) if recipe.test_size is None else recipe.test_size


def _stride(recipe: Recipe) -> int:
    return _network(recipe).stride if recipe.stride is None else recipe.stride
