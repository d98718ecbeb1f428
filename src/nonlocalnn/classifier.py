"""A trained classifier together with what it expects, ready to be asked about files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nonlocalnn._device import Precision
from nonlocalnn.checkpoints import OURS, CheckpointError, import_checkpoint
from nonlocalnn.data.clips import ChannelValues, check_positive, normalize_image
from nonlocalnn.data.image_folders import find_images
from nonlocalnn.data.video_files import find_videos
from nonlocalnn.model_facts import checked_facts, implied_facts, in_words
from nonlocalnn.predict import predict
from nonlocalnn.video_prediction import predict_videos


@dataclass(frozen=True)
class Classifier:
    """A classifier and what it was trained on.

    Args:
        model: In eval mode; :func:`load_classifier` leaves it on the CPU.
        classes: Names of its outputs.
        sample_shape: Shape of one sample: (C, N), (C, H, W) or (C, T, H, W).
        recipe: The recipe that trained it; empty where it was not trained by one.
        stride: Frames from one of a clip to the next.
        test_size: Short side of videos, and side of the squares cut out of them, in pixels; None for the side
            of the samples.
        mean: What becomes 0, of pixel values from 0 to 255; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same. By default values are from 0 to 1.
        multi_label: Whether a video may show several classes, or none.
        assumed: Which of these its file does not say, so that they were taken from the network's name.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("c2d_tiny", num_classes=2).eval()
        >>> classifier = Classifier(model, classes=("run", "walk"), sample_shape=(3, 8, 32, 32), recipe={})
        >>> classifier.takes_videos, classifier.image_size
        (True, (32, 32))
    """

    model: nn.Module
    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    recipe: dict[str, Any]
    stride: int = 1
    test_size: int | None = None
    mean: ChannelValues = 0.0
    standard_deviation: ChannelValues = 255.0
    multi_label: bool = False
    assumed: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of its input; of images, 1 for grey and 3 for colour."""
        return self.sample_shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of its images or of the frames of its clips, in pixels."""
        assert len(self.sample_shape) > 2, "sequences have no image size"
        return self.sample_shape[-2], self.sample_shape[-1]

    @property
    def video_size(self) -> int:
        """Short side of videos, and side of the squares cut out of them, in pixels."""
        return self.image_size[0] if self.test_size is None else self.test_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def takes_videos(self) -> bool:
        """Whether it classifies videos, and not images or sequences."""
        return len(self.sample_shape) == 4

    @property
    def assumptions(self) -> str:
        """What was assumed of it, in words; empty where its file says everything."""
        return in_words(vars(self) | {"test_size": self.test_size or self.sample_shape[-1]}, self.assumed)

    def facts(self) -> dict[str, Any]:
        """Return what a user of its weights must know, JSON-ready: classes, pixels and clips."""
        facts: dict[str, Any] = {"classes": list(self.classes), "sample_shape": list(self.sample_shape)}
        scale = {"mean": self.mean, "standard_deviation": self.standard_deviation}
        if self.takes_videos:
            about = {"stride": self.stride, "test_size": self.video_size, "multi_label": self.multi_label}
            return {**facts, **about, **scale}
        is_scaled = (self.mean, self.standard_deviation) != (0.0, 255.0)
        return {**facts, **scale} if is_scaled else facts

    def normalized(self, samples: Tensor) -> Tensor:
        r"""Return samples of a data set as the model takes them: images by its mean and standard deviation.

        Args:
            samples: One or several, (C, \*sides) or (B, C, \*sides), with values from 0 to 1.
        """
        if len(self.sample_shape) != 3:
            return samples
        return normalize_image(samples, mean=self.mean, standard_deviation=self.standard_deviation)

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """Return the files of the kind that it classifies, among ``inputs`` and in the folders among them.

        What is not there, and a folder that holds none, are among them as they are named: reading them says
        what is wrong, and the others can be read.

        Raises:
            ValueError: It takes sequences.
        """
        if len(self.sample_shape) < 3:
            raise ValueError(
                f"images and videos can be read from files; this model takes samples of shape "
                f"{self.sample_shape}"
            )
        return find_videos(inputs) if self.takes_videos else find_images(inputs)

    def predict(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 3,
        views: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "fp32",
    ) -> dict[str, Any]:
        """Return the most probable classes of one image or video.

        Args:
            path: The file, or a video's folder of frame images.
            top: See :meth:`predict_many`, and so the others.
            views: For videos.
            batch_size: Views a forward pass, for videos.
            precision: "fp32", "bf16" or "fp16".

        Returns:
            ``{"path", "class", "probability", "top": [{"class", "probability"}, ...]}``, and for a video
            ``"views"``, which names the views that it was looked at by.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or is a folder of files; or a setting is out of range or has no
                effect.
        """
        paths = self.find([path])
        if paths != [Path(path)]:
            raise ValueError(f"predict takes one file; {path} is a folder of files: use predict_many")
        if not paths[0].exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        (answer,) = self._answers(paths, top=top, views=views, batch_size=batch_size, precision=precision)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def predict_many(
        self,
        inputs: Iterable[str | os.PathLike[str]],
        *,
        top: int = 3,
        views: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "fp32",
    ) -> Iterator[dict[str, Any]]:
        """Return an iterator over the answers for files, and for those in folders, one after another.

        They are computed where the model is.

        Args:
            inputs: Files, and folders of them; see :meth:`find`.
            top: How many classes to report, at most K.
            views: For videos: 1, the clip in the middle (default), or 30, 10 clips x 3 crops.
            batch_size: Images, or views of videos, a forward pass; by default 64 images or 8 views.
            precision: "fp32", "bf16" or "fp16".

        Returns:
            What :meth:`predict` returns, or ``{"path", "error"}`` for a file that cannot be read or is not
            there, and for a folder that holds none.

        Raises:
            ValueError: The model takes sequences, or a setting is out of range or has no effect.
        """
        if isinstance(inputs, str | os.PathLike):
            inputs = [inputs]
        return self._answers(
            self.find(inputs), top=top, views=views, batch_size=batch_size, precision=precision
        )

    def _answers(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        top: int,
        views: int | None,
        batch_size: int | None,
        precision: Precision,
    ) -> Iterator[dict[str, Any]]:
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value is not None:
                check_positive(**{name: value})
        if self.takes_videos:
            return predict_videos(
                self.model,
                paths,
                classes=self.classes,
                frames=self.sample_shape[1],
                stride=self.stride,
                size=self.video_size,
                views=1 if views is None else views,
                mean=self.mean,
                standard_deviation=self.standard_deviation,
                multi_label=self.multi_label,
                batch_size=8 if batch_size is None else batch_size,
                device=self.device,
                precision=precision,
                top=top,
            )
        if views is not None:
            raise ValueError("views is a setting of models of videos; this one takes images: leave it out")
        return predict(
            self.model,
            paths,
            classes=self.classes,
            image_size=self.image_size,
            channels=self.channels,
            mean=self.mean,
            standard_deviation=self.standard_deviation,
            batch_size=64 if batch_size is None else batch_size,
            device=self.device,
            precision=precision,
            top=top,
        )


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Load a classifier from a checkpoint or a run's folder.

    What the file does not say of classes and samples is taken from the network: numbers for classes, and the
    samples that its name implies, see :func:`nonlocalnn.model_facts.implied_facts`. ``assumed`` says what.

    Args:
        path: Any file that :func:`nonlocalnn.load_checkpoint` loads without a model, or the folder of a run,
            whose best weights are taken.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file does not fit, or a fact in it is wrong.

    Example:
        >>> import tempfile
        >>> from nonlocalnn import create_model, save_checkpoint
        >>> path = tempfile.mkdtemp() + "/clips.safetensors"
        >>> model = create_model("c2d_tiny", num_classes=2)
        >>> save_checkpoint(model, path, metadata={"classes": ["run", "walk"]})
        >>> load_classifier(path).classes, load_classifier(path).sample_shape
        (('run', 'walk'), (3, 8, 32, 32))
    """
    path = weights_file(path)
    found = import_checkpoint(path)
    implied = implied_facts(found.model, found.metadata)
    known = {**implied, **found.metadata}
    facts = checked_facts(known, path)
    # What is known of another code base's file is known of the code base: the file itself says nothing.
    assumed = tuple(name for name in (implied if found.source == OURS else known) if name in facts)
    num_outputs = cast(dict[str, Any], found.model.config)["num_classes"]
    if num_outputs != len(facts["classes"]):
        raise CheckpointError(f"{path} names {len(facts['classes'])} classes of a model with {num_outputs}")
    return Classifier(found.model.eval(), **facts, assumed=assumed)


def weights_file(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint at ``path``: of a run's folder its best weights, else ``path`` itself.

    Raises:
        FileNotFoundError: The folder holds no run.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    weights = path / "best.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{path} holds no finished epoch: there is no {weights.name} in it")
    return weights
