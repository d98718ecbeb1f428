"""A trained classifier that answers batches of paths, here or as a worker of Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nonlocalnn._device import Precision, autocast_for, resolve_device
from nonlocalnn._files import json_text
from nonlocalnn.inference.classifier import load_classifier
from nonlocalnn.tasks.answers import answer_files, files_a_batch


class AnswerPaths:
    """A trained classifier that answers batches of paths.

    A class for ``ray.data.Dataset.map_batches``: each worker makes one and so loads the model once. A batch
    is a dictionary of columns with "path" among them, as strings or bytes. It comes back with one more,
    "answer": what :meth:`~nonlocalnn.inference.Classifier.predict_many` answers, as JSON. A file that cannot
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
        kind = self.classifier.kind
        self.root, self.top, self.precision = root, top, precision
        self.views = 1 if kind.views_a_file and views is None else views
        # Asked about nothing, it checks what it is asked with.
        for _ in self.classifier.predict_many([], top=top, views=self.views, batch_size=batch_size):
            pass
        autocast_for(precision, self.classifier.device)
        self.batch_size = kind.batch_size if batch_size is None else batch_size

    @property
    def files_a_batch(self) -> int:
        """Files that are read and answered together; videos come one by one, with all their views."""
        return files_a_batch(self.classifier, self.batch_size)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with the column "answer"."""
        return {**batch, "answer": list(self.answers([[os.fsdecode(name) for name in batch["path"]]]))}

    def answers(self, groups: Iterable[list[str]], *, num_workers: int = 0) -> Iterator[str]:
        """Yield the answer to each path of each group, in turn, as one line of JSON.

        Args:
            groups: Paths. No batch has paths of two groups.
            num_workers: Processes that read, two batches each ahead of the answers; 0 reads in this one.
        """
        found = answer_files(
            self.classifier.model,
            groups,
            self.classifier,
            root=self.root,
            views=self.views,
            batch_size=self.batch_size,
            num_workers=num_workers,
            device=self.classifier.device,
            precision=self.precision,
            top=self.top,
        )
        return map(json_text, found)
