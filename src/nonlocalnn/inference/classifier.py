"""A trained classifier together with what it expects, ready to be asked about files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nonlocalnn._device import Precision
from nonlocalnn._errors import check_positive
from nonlocalnn._names import MASK_SETS, OBJECT_SETS, STEP_SETS, VOLUME_MASK_SETS
from nonlocalnn.checkpoints import Imported, import_checkpoint
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.data import LabelledSamples
from nonlocalnn.inference.model_facts import facts_of, in_words
from nonlocalnn.inference.trained import Loaded
from nonlocalnn.models.layout import with_channels_last
from nonlocalnn.tasks.answers import answer_files
from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput, take_sample
from nonlocalnn.tasks.kinds import kind_of_data, kind_of_facts
from nonlocalnn.tasks.probabilities import class_probabilities


@dataclass(frozen=True)
class Classifier(Facts, Loaded):
    """A classifier and what it was trained on; see :class:`~nonlocalnn.tasks.inputs.Facts` for its facts.

    Args:
        model: In eval mode; :func:`load_classifier` leaves it on the CPU.
        recipe: The recipe that trained it; empty where it was not trained by one.
        assumed: Which of the facts its file does not say, so that they were taken from the network's name.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("c2d_tiny", num_classes=2).eval()
        >>> classifier = Classifier(model, classes=("run", "walk"), sample_shape=(3, 8, 32, 32), recipe={})
        >>> classifier.kind.name, classifier.image_size
        ('video', (32, 32))
    """

    model: nn.Module
    recipe: dict[str, Any]
    assumed: tuple[str, ...] = ()

    @property
    def kind(self) -> InputKind:
        """What it takes: images, videos, sequences or volumes."""
        return kind_of_facts(self)

    @property
    def assumptions(self) -> str:
        """What was assumed of it, in words; empty where its file says everything."""
        return in_words(vars(self) | {"test_size": self.test_size or self.sample_shape[-1]}, self.assumed)

    def facts(self) -> dict[str, Any]:
        """Return what a user of its weights must know, JSON-ready: classes, pixels and clips."""
        facts: dict[str, Any] = {"classes": list(self.classes), "sample_shape": list(self.sample_shape)}
        scale = {"mean": self.mean, "standard_deviation": self.standard_deviation}
        if self.channel_names:
            facts["channel_names"] = list(self.channel_names)
        if self.volume is not None:
            return {**facts, "volume": self.volume.to_dict()}
        if self.kind.num_sides == 3:
            about = {"stride": self.stride, "test_size": self.video_size, "multi_label": self.multi_label}
            return {**facts, **about, **scale}
        return {**facts, **scale} if self.is_scaled else facts

    def load_dataset(
        self, name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None, **settings: Any
    ) -> LabelledSamples:
        """Return a split of a data set with samples as the model takes them.

        Args:
            name: See :func:`nonlocalnn.data.load_dataset`, and so the others.
            split: "train", "validation" or "test".
            data_dir: Where the files are; None is where those of the training were, for the same data set.
            settings: ``max_broken``; of videos ``views`` and ``decoder``.

        Raises:
            ValueError: The samples have another shape, or several classes where the model has learnt one;
                or a setting has no effect.
        """
        if name in (*MASK_SETS, *VOLUME_MASK_SETS, *STEP_SETS, *OBJECT_SETS):
            raise ValueError(
                f"the model gives one class a {self.kind.name}, and {name!r} has classes of parts of one: "
                f"choose {', '.join(self.kind.datasets)}"
            )
        kind = kind_of_data(name)
        if kind.name != self.kind.name:
            raise ValueError(
                f"the model was trained on {self.kind.samples}, samples of shape {self.sample_shape}; "
                f"{name!r} has {kind.samples}"
            )
        settings = {"data_dir": self.folder(name, data_dir), **settings}
        data = kind.test_data(self, name, split, settings)
        # A residual network takes sequences of any length: where the file names none, the data set does.
        is_open = kind.num_sides == 1 and data.channels == self.channels
        is_open &= "sample_shape" in self.assumed or data.any_length
        if data.sample_shape != self.sample_shape and not data.exceeds_training and not is_open:
            raise ValueError(
                f"the model was trained on samples of shape {self.sample_shape}; those of {name!r} have "
                f"{data.sample_shape}"
            )
        if data.multi_label != self.multi_label and "multi_label" not in self.assumed:
            several = {True: "several classes a sample", False: "one class a sample"}
            raise ValueError(
                f"the model has learnt {several[self.multi_label]}; {name} has {several[data.multi_label]}"
            )
        return data

    def show(self, path: str | os.PathLike[str], *, whole: bool = False) -> ShownInput:
        """Return one file as the model takes it, and as it looks.

        Args:
            path: An image for a model of images, a video (or its folder of frames) for a model of videos, a
                sequence for a model of sequences.
            whole: Keep the aspect ratio and all of it, instead of stretching an image and cutting a square
                out of a video. Networks that average over all places take that, others do not.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, is a folder of files, or the model takes another kind.
        """
        several = "name them one by one, or draw all with nonlocalnn maps, which takes folders"
        return self.kind.show(self._one(path, several), self, whole=whole)

    def take(self, dataset: LabelledSamples, index: int, *, split: str) -> ShownInput:
        """Return sample ``index`` of a split of :meth:`load_dataset`, as :meth:`show` does a file.

        Raises:
            ValueError: There is no such sample.
        """
        return take_sample(dataset, index, split=split, kind=self.kind)

    def ask(self, samples: Tensor, *, batch_size: int = 8) -> Tensor:
        r"""Return the class probabilities that :meth:`predict` gives for some samples, (B, K), on the CPU.

        Args:
            samples: What the model takes, (B, C, \*sides).
            batch_size: Samples a forward pass.
        """
        return class_probabilities(
            self.model,
            samples.unsqueeze(1),
            multi_label=self.multi_label,
            everywhere=self.kind.exceeds_training,
            batch_size=batch_size,
            device=self.device,
        )

    def predict(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 3,
        views: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "fp32",
    ) -> dict[str, Any]:
        """Return the most probable classes of one image, video or sequence.

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
        file = self._one(path, "predict_many takes folders")
        (answer,) = self.predict_many(
            [file], top=top, views=views, batch_size=batch_size, precision=precision
        )
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
            batch_size: Images, sequences, or views of videos, a forward pass; by default 64, or 8 views.
            precision: "fp32", "bf16" or "fp16".

        Returns:
            What :meth:`predict` returns, or ``{"path", "error"}`` for a file that cannot be read or is not
            there, and for a folder that holds none.

        Raises:
            ValueError: A setting is out of range or has no effect.
        """
        if isinstance(inputs, str | os.PathLike):
            inputs = [inputs]
        check_positive(top=top, batch_size=1 if batch_size is None else batch_size)
        self.kind.views(views)
        return answer_files(
            self.model,
            [self.find(inputs)],
            self,
            views=views,
            batch_size=batch_size,
            device=self.device,
            precision=precision,
            top=top,
        )

    def _one(self, path: str | os.PathLike[str], several: str) -> Path:
        """Return the path of one file, which a folder of several is not; ``several`` says what to do then."""
        paths = self.find([path])
        if paths != [Path(path)]:
            what = "a folder of files" if Path(path).is_dir() else f"a file of {len(paths)}, as {paths[0]}"
            raise ValueError(f"one {self.kind.name} is taken at a time, and {path} is {what}: {several}")
        if not self.kind.exists(paths[0]):
            raise FileNotFoundError(f"there is no file or folder {path}")
        return paths[0]


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Load a classifier from a checkpoint or a run's folder.

    What the file does not say of classes and samples is taken from the network: numbers for classes, and the
    samples that its name implies, see :func:`nonlocalnn.inference.model_facts.implied_facts`. ``assumed``
    says what.

    Args:
        path: Any file that :func:`nonlocalnn.load_checkpoint` loads without a model, or the folder of a run,
            whose best weights are taken.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file does not fit, is of another task, or a fact in it is wrong.

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
    return classifier_of(path, import_checkpoint(path))


def classifier_of(path: Path, found: Imported) -> Classifier:
    """Return the classifier that an opened checkpoint holds; see :func:`load_classifier`."""
    _, facts, assumed = facts_of(path, found, "classification")
    return Classifier(with_channels_last(found.model.eval()), **facts, assumed=assumed)
