"""Class probabilities for video files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from nonlocalnn._device import Precision
from nonlocalnn.data import clips
from nonlocalnn.data.video import ArchivedVideo, VideoDecodeError, check_no_image, open_video
from nonlocalnn.data.video_sampling import choose_sampling
from nonlocalnn.predict import answer
from nonlocalnn.video_evaluation import class_probabilities


def predict_videos(
    model: nn.Module,
    paths: Iterable[str | os.PathLike[str] | ArchivedVideo],
    *,
    classes: Sequence[str],
    frames: int,
    stride: int,
    size: int = 256,
    views: int = 1,
    mean: clips.ChannelValues = clips.MEAN,
    standard_deviation: clips.ChannelValues = clips.STANDARD_DEVIATION,
    multi_label: bool = False,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    top: int = 3,
    backend: str = "pyav",
) -> Iterator[dict[str, Any]]:
    """Yield, for each video in turn, its most probable classes, or why it could not be read.

    Views are averaged as :func:`~nonlocalnn.video_evaluation.class_probabilities` says. The model is left in
    eval mode.

    Args:
        model: Takes (B, 3, T, H, W) and returns scores (B, K).
        paths: Video files, folders of frame images, or videos in archives.
        classes: The K class names.
        frames: Frames of a clip, T.
        stride: Frames from one of a clip to the next.
        size: The short side is scaled to it, and the squares are as long, in pixels.
        views: 1, the clip in the middle, or 30, 10 clips x 3 crops.
        mean: What becomes 0, of pixel values from 0 to 255; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same.
        multi_label: Whether a video may show several classes, or none; probabilities then do not sum to 1.
        batch_size: Views a forward pass.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        top: How many classes to report, at most K.
        backend: What decodes; see :func:`~nonlocalnn.data.video.open_video`.

    Yields:
        ``{"path", "views", "class", "probability", "top": [{"class", "probability"}, ...]}``, where ``views``
        is "1 clip" or "30 views (10 clips x 3 crops)"; or ``{"path", "error"}`` for a video that is missing
        or cannot be read.

    Raises:
        ValueError: A number is out of range, or the backend unknown.
        ImportError: The backend's library is missing.

    Memory: the views of one video, 12 x T x ``size`` x ``size`` bytes each, and a quarter more.
    """
    sampling = choose_sampling(views, size=size)
    model.eval()
    for path in paths:
        try:
            check_no_image(path)
            with open_video(path, backend=backend) as video:
                taken = sampling.take(video, frames=frames, stride=stride)
        except (VideoDecodeError, FileNotFoundError) as error:
            yield {"path": str(path), "error": str(error)}
            continue
        normalized = clips.normalize_clip(taken, mean=mean, standard_deviation=standard_deviation)
        probabilities = class_probabilities(
            model,
            normalized.view(sampling.num_views, *normalized.shape[-4:]),
            multi_label=multi_label,
            batch_size=batch_size,
            device=device,
            precision=precision,
        )
        yield {
            "path": str(path),
            "views": sampling.name,
            **answer(probabilities, classes, top=top),
        }
