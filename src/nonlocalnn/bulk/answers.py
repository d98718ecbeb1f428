"""A model's answers to files: read, in other processes where asked, and answered batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nonlocalnn._device import Precision, autocast_for, resolve_device
from nonlocalnn.classifier import load_classifier
from nonlocalnn.data.clips import normalize_clip
from nonlocalnn.data.video import check_no_image, open_video
from nonlocalnn.data.video_sampling import CentreClip, Views, choose_sampling
from nonlocalnn.predict import answer, image_probabilities, read_or_reason
from nonlocalnn.video_evaluation import class_probabilities


@dataclass(frozen=True)
class _Files(Dataset[Any]):
    """Files by their paths under ``root``: what ``read`` makes of them, or why they cannot be read."""

    root: str | os.PathLike[str]
    read: Callable[[str], Tensor | str]

    def __getitem__(self, path: str) -> tuple[str, Tensor | str]:
        return path, self.read(os.path.join(self.root, path))


class AnswerPaths:
    """A trained classifier that answers batches of paths.

    A class for ``ray.data.Dataset.map_batches``: each worker makes one and so loads the model once. A batch
    is a dictionary of columns with "path" among them, as strings or bytes. It comes back with one more,
    "answer": what :meth:`~nonlocalnn.classifier.Classifier.predict_many` answers, as JSON. A file that cannot
    be read has an answer that says why.

    Args:
        model: A checkpoint, or the folder of a run (its best weights); every machine must see it.
        root: What paths are relative to.
        top: How many classes to report, at most K.
        views: Of videos: 1, the clip in the middle (default), or 30, 10 clips x 3 crops.
        batch_size: Images, or views of videos, a forward pass; by default 64 images or 8 views.
        precision: "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda" or "cuda:N"; "auto" is the GPU that Ray gave a worker, else the CPU.

    Raises:
        FileNotFoundError: The model does not exist.
        CheckpointError: Its file does not fit.
        ValueError: A setting is out of range or has no effect.

    Example:
        >>> import tempfile
        >>> import nonlocalnn as nl
        >>> path = tempfile.mkdtemp() + "/m.safetensors"
        >>> facts = {"classes": ["a", "b"], "sample_shape": [1, 28, 28]}
        >>> nl.save_checkpoint(nl.create_model("nl_digits", num_classes=2), path, metadata=facts)
        >>> AnswerPaths(path)({"path": ["none.png"]})["answer"]
        ['{"path": "none.png", "error": "no such image: none.png"}']
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] = "",
        top: int = 3,
        views: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        device: str = "auto",
    ) -> None:
        self.classifier = load_classifier(model)
        self.classifier.model.to(resolve_device(device))
        is_video = self.classifier.takes_videos
        self.root, self.top, self.precision = root, top, precision
        self.views = 1 if is_video and views is None else views
        # Asked about nothing, it checks what it is asked with.
        for _ in self.classifier.predict_many([], top=top, views=self.views, batch_size=batch_size):
            pass
        autocast_for(precision, self.classifier.device)
        self.batch_size = (8 if is_video else 64) if batch_size is None else batch_size

    @property
    def files_a_batch(self) -> int:
        """Files that are read and answered together; videos come one by one, with all their views."""
        return self.batch_size if self.views is None else 1

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with the column "answer"."""
        return {**batch, "answer": list(self.answers([[os.fsdecode(name) for name in batch["path"]]]))}

    def answers(self, groups: Iterable[list[str]], *, num_workers: int = 0) -> Iterator[str]:
        """Yield the answer to each path of each group, in turn, as one line of JSON.

        Args:
            groups: Paths. No batch has paths of two groups, so that answers do not depend, in their last
                digits, on the groups beside.
            num_workers: Processes that read, two batches each ahead of the answers; 0 reads in this one.
        """
        most = self.files_a_batch
        batches = (group[start : start + most] for group in groups for start in range(0, len(group), most))
        loader = DataLoader(
            _Files(self.root, self._reader()),
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_stack,
        )
        for samples, read in loader:
            rows: Iterator[Tensor] = iter(() if samples is None else self._probabilities(samples))
            for path, error in read:
                found = self._answer(next(rows)) if error is None else {"error": error}
                yield json.dumps({"path": path, **found})

    def _reader(self) -> Callable[[str], Tensor | str]:
        """Return how a file is read; small enough to be sent to other processes."""
        asked = self.classifier
        if self.views is None:
            return partial(read_or_reason, image_size=asked.image_size, channels=asked.channels)
        sampling = choose_sampling(self.views, size=asked.video_size)
        return partial(_views, frames=asked.sample_shape[1], stride=asked.stride, sampling=sampling)

    def _answer(self, probabilities: Tensor) -> dict[str, Any]:
        seen = {} if self.views is None else {"views": choose_sampling(self.views).name}
        return {**seen, **answer(probabilities, self.classifier.classes, top=self.top)}

    def _probabilities(self, samples: Tensor) -> Tensor:
        asked = self.classifier
        if self.views is None:
            images = asked.normalized(samples)
            return image_probabilities(asked.model, images, device=asked.device, precision=self.precision)
        return class_probabilities(
            asked.model,
            normalize_clip(samples, mean=asked.mean, standard_deviation=asked.standard_deviation),
            multi_label=asked.multi_label,
            batch_size=self.batch_size,
            device=asked.device,
            precision=self.precision,
        )


def _views(path: str, *, frames: int, stride: int, sampling: CentreClip | Views) -> Tensor | str:
    """Return the views of a video, uint8 (V, T, H, W, 3), or why it cannot be read."""
    try:
        check_no_image(path)
        with open_video(path) as video:
            views = sampling.take(video, frames=frames, stride=stride)
    except (OSError, ValueError) as error:
        return str(error)
    return views.view(sampling.num_views, *views.shape[-4:])


def _stack(
    read: Sequence[tuple[str, Tensor | str]],
) -> tuple[Tensor | None, list[tuple[str, str | None]]]:
    """Collate in the reading process: each tensor that is handed over costs an open file.

    Returns:
        What was read, stacked, and each path with what was wrong with it, if anything.
    """
    samples = [sample for _, sample in read if isinstance(sample, Tensor)]
    errors = [(path, None if isinstance(sample, Tensor) else sample) for path, sample in read]
    return torch.stack(samples) if samples else None, errors
