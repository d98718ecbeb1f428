"""Files read ahead in other processes, and the model's answers to them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nonlocalnn._device import Precision
from nonlocalnn.classifier import Classifier
from nonlocalnn.data import read_image
from nonlocalnn.data.clips import normalize_clip
from nonlocalnn.data.video import check_no_image, open_video
from nonlocalnn.data.video_sampling import CentreClip, Views, choose_sampling
from nonlocalnn.predict import answer, image_probabilities
from nonlocalnn.video_evaluation import class_probabilities

# Of a batch: what was read of it, stacked, and for each of its files what was wrong with it, if anything.
_Read = tuple[Tensor | None, list[str | None]]


@dataclass(frozen=True)
class ImageFiles(Dataset[Any]):
    """Images by their paths, float32 (C, H, W).

    Args:
        image_size: (H, W) to which they are stretched, in pixels.
        channels: 1 for grey, 3 for colour.
    """

    image_size: tuple[int, int]
    channels: int

    def __getitem__(self, path: str) -> Tensor | str:
        """Return the image, or why it cannot be read."""
        try:
            return read_image(path, image_size=self.image_size, channels=self.channels)
        except (OSError, ValueError) as error:
            return str(error)


@dataclass(frozen=True)
class VideoFiles(Dataset[Any]):
    """Videos by their paths, seen by some of their views, uint8 (V, T, H, W, 3).

    Args:
        frames: Frames of a clip, T.
        stride: Frames from one of a clip to the next.
        sampling: Which views.
    """

    frames: int
    stride: int
    sampling: CentreClip | Views

    def __getitem__(self, path: str) -> Tensor | str:
        """Return the views, or why they cannot be read."""
        try:
            check_no_image(path)
            with open_video(path) as video:
                views = self.sampling.take(video, frames=self.frames, stride=self.stride)
        except (OSError, ValueError) as error:
            return str(error)
        return views.view(self.sampling.num_views, *views.shape[-4:])


@dataclass(frozen=True)
class Asker:
    """A classifier and how it is asked; it answers as :meth:`Classifier.predict_many` does.

    Args:
        classifier: Who answers, where its model is.
        top: How many classes to report.
        views: Of videos, 1 or 30; of images, None.
        batch_size: Images, or views of videos, a forward pass.
        precision: "fp32", "bf16" or "fp16".
    """

    classifier: Classifier
    top: int
    views: int | None
    batch_size: int
    precision: Precision

    @property
    def files(self) -> ImageFiles | VideoFiles:
        """How files are read; small enough to be sent to other processes."""
        loaded = self.classifier
        if self.views is None:
            return ImageFiles(loaded.image_size, loaded.channels)
        sampling = choose_sampling(self.views, size=loaded.video_size)
        return VideoFiles(loaded.sample_shape[1], loaded.stride, sampling)

    @property
    def files_a_batch(self) -> int:
        """Files that are read and answered together; videos come one by one, with all their views."""
        return self.batch_size if self.views is None else 1

    def ask(self, batches: Iterable[list[str]], *, num_workers: int) -> Iterator[list[dict[str, Any]]]:
        """Yield what the model says of each file of each batch, or ``{"error": reason}``.

        Args:
            batches: Paths. They are taken from it ahead of the answers, two batches a reading process.
            num_workers: Processes that read; 0 reads in this one.
        """
        loader = DataLoader(
            self.files,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_stack,
        )
        for samples, errors in loader:
            rows: Iterator[Tensor] = iter(() if samples is None else self._probabilities(samples))
            yield [self._answer(next(rows)) if error is None else {"error": error} for error in errors]

    def _answer(self, probabilities: Tensor) -> dict[str, Any]:
        seen = {} if self.views is None else {"views": choose_sampling(self.views).name}
        return {**seen, **answer(probabilities, self.classifier.classes, top=self.top)}

    def _probabilities(self, samples: Tensor) -> Tensor:
        loaded = self.classifier
        if self.views is None:
            images = loaded.normalized(samples)
            return image_probabilities(loaded.model, images, device=loaded.device, precision=self.precision)
        return class_probabilities(
            loaded.model,
            normalize_clip(samples, mean=loaded.mean, standard_deviation=loaded.standard_deviation),
            multi_label=loaded.multi_label,
            batch_size=self.batch_size,
            device=loaded.device,
            precision=self.precision,
        )


def _stack(read: Sequence[Tensor | str]) -> _Read:
    """Collate in the reading process: each tensor that is handed over costs an open file."""
    samples = [sample for sample in read if isinstance(sample, Tensor)]
    errors = [None if isinstance(sample, Tensor) else sample for sample in read]
    return torch.stack(samples) if samples else None, errors
