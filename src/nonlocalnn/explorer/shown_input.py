"""One image, clip or sequence: as the network takes it, and as it is shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn.classifier import Classifier
from nonlocalnn.data import LabelledSamples, clips, read_image
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.video import check_no_image, open_video
from nonlocalnn.data.video_sampling import CentreClip, WholeFrames
from nonlocalnn.predict import image_probabilities
from nonlocalnn.video_evaluation import class_probabilities


@dataclass(frozen=True, eq=False)
class ShownInput:
    r"""An input of a network, and what people see of it.

    Args:
        name: What it is called: a file's name, or a sample's.
        sample: What the network takes, (C, \*sides), float32.
        pixels: The same as it looks, (C, \*sides), in [0, 1]: not normalised.
        frame_numbers: Of a video, which of its frames these are.
        seconds: Of a video, when these are; None where nothing tells its rate.
        truth: Its class, where that is known.
    """

    name: str
    sample: Tensor
    pixels: Tensor
    frame_numbers: tuple[int, ...] | None = None
    seconds: tuple[float, ...] | None = None
    truth: str | None = None


def ask(loaded: Classifier, inputs: Tensor, *, batch_size: int = 8) -> Tensor:
    r"""Return the class probabilities that ``predict`` gives for each of some inputs, (B, K), on the CPU.

    Args:
        loaded: The classifier.
        inputs: What it takes, (B, C, \*sides).
        batch_size: Inputs a forward pass.
    """
    if loaded.takes_videos:
        return class_probabilities(
            loaded.model,
            inputs.unsqueeze(1),
            multi_label=loaded.multi_label,
            batch_size=batch_size,
            device=loaded.device,
        )
    parts = inputs.split(batch_size)
    return torch.cat([image_probabilities(loaded.model, part, device=loaded.device) for part in parts])


def read_input(loaded: Classifier, path: str | os.PathLike[str], *, whole: bool = False) -> ShownInput:
    """Read an image or video as a classifier takes it.

    Args:
        loaded: The classifier.
        path: An image for a model of images, a video (or its folder of frames) for a model of videos.
        whole: Keep the aspect ratio and all of it, instead of stretching an image and cutting a square out
            of a video. Networks that average over all places take that, others do not.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or the model takes another kind.
    """
    paths = loaded.find([path])
    if paths != [Path(path)]:
        raise ValueError(f"one image or video is explained at a time; {path} is a folder of them")
    if not paths[0].exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if loaded.takes_videos:
        return _read_video(loaded, paths[0], whole=whole)
    pixels = read_image(path, image_size=None if whole else loaded.image_size, channels=loaded.channels)
    if whole:
        height, width = pixels.shape[1:]
        short, size = min(height, width), min(loaded.image_size)
        pixels = resize_image(pixels, (height * size // short, width * size // short))
    return ShownInput(name=paths[0].name, sample=loaded.normalized(pixels), pixels=pixels)


def _read_video(loaded: Classifier, path: Path, *, whole: bool) -> ShownInput:
    sampling = WholeFrames(loaded.video_size) if whole else CentreClip(loaded.video_size)
    frames = loaded.sample_shape[1]
    check_no_image(path)
    with open_video(path) as video:
        taken = sampling.take(video, frames=frames, stride=loaded.stride)
        numbers = clips.centre_indices(video.num_frames, frames=frames, stride=loaded.stride)
        rate = video.frames_per_second
    return ShownInput(
        name=path.name,
        sample=clips.normalize_clip(taken, mean=loaded.mean, standard_deviation=loaded.standard_deviation),
        pixels=clips.normalize_clip(taken, mean=0.0, standard_deviation=255.0),
        frame_numbers=tuple(numbers),
        seconds=None if rate is None else tuple(round(number / rate, 3) for number in numbers),
    )


def take_sample(
    dataset: LabelledSamples,
    index: int,
    *,
    split: str,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> ShownInput:
    """Return sample ``index`` of a split.

    Args:
        dataset: The split.
        index: Place in it.
        split: What it is called.
        prepare: Turns a sample into what the model takes; None where that is the same.

    Raises:
        ValueError: There is no such sample.
    """
    if not 0 <= index < len(dataset):
        raise ValueError(f"samples are from 0 to {len(dataset) - 1} for this split; got {index}")
    pixels, target = dataset[index]
    truth = dataset.classes[target]
    sample = pixels if prepare is None else prepare(pixels)
    return ShownInput(name=f"{split}-{index}-class-{truth}", sample=sample, pixels=pixels, truth=truth)
