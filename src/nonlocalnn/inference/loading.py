"""A trained network of any task, from its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nonlocalnn._errors import check_whole
from nonlocalnn.checkpoints import CheckpointError, Imported, import_checkpoint
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.inference.classifier import Classifier, classifier_of
from nonlocalnn.inference.detector import Detector, detector_of
from nonlocalnn.inference.model_facts import facts_of, implied_facts
from nonlocalnn.inference.segmenter import Segmenter
from nonlocalnn.inference.step_segmenter import StepSegmenter
from nonlocalnn.inference.volume_segmenter import VolumeSegmenter
from nonlocalnn.models.layout import with_channels_last
from nonlocalnn.tasks.choice import trained_task

Loaded = Classifier | Segmenter | Detector


def load_trained(path: str | os.PathLike[str]) -> Loaded:
    """Load a classifier, a segmentation network or a detector, whichever a file holds.

    Args:
        path: A checkpoint, or the folder of a run, whose best weights are taken.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It does not fit its task, or a fact in it is wrong.

    Example:
        >>> import tempfile
        >>> from nonlocalnn import create_model, save_checkpoint
        >>> path = tempfile.mkdtemp() + "/scenes.safetensors"
        >>> save_checkpoint(create_model("nl_fcn_tiny"), path, metadata={"classes": ["a", "b", "c"]})
        >>> type(load_trained(path)).__name__
        'Segmenter'
    """
    file = weights_file(path)
    # Opened once: its task and its weights are then of one file.
    found = import_checkpoint(file)
    # What the file does not say, its network tells: networks of one task need no word of it.
    task = trained_task({**implied_facts(found.model, found.metadata), **found.metadata})
    return _OPENERS.get(task, classifier_of)(file, found)


def load_segmenter(path: str | os.PathLike[str]) -> Segmenter:
    """Load a segmentation network from a checkpoint or a run's folder.

    Args:
        path: A checkpoint of ours, or the folder of a run, whose best weights are taken.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file is of another task, or a fact in it is wrong.

    Example:
        >>> import tempfile
        >>> from nonlocalnn import create_model, save_checkpoint
        >>> path = tempfile.mkdtemp() + "/scenes.safetensors"
        >>> save_checkpoint(create_model("nl_fcn_tiny"), path, metadata={"classes": ["a", "b", "c"]})
        >>> load_segmenter(path).classes
        ('a', 'b', 'c')
    """
    path = weights_file(path)
    return segmenter_of(path, import_checkpoint(path))


def segmenter_of(path: Path, found: Imported) -> Segmenter:
    """Return the segmentation network that an opened checkpoint holds; see :func:`load_segmenter`."""
    names = ("classes", "sample_shape", "recipe", "mean", "standard_deviation", "volume")
    known, facts, assumed = facts_of(path, found, "segmentation", assumable=names)
    given = {name: facts[name] for name in names if name in facts}
    for name in ("resize", "window"):
        if known.get(name) is not None:
            try:
                check_whole(name, known[name], most=2**20)
            except ValueError as error:
                raise CheckpointError(f"{path} does not say what its model takes: {error}") from None
            given[name] = known[name]
    kind = Segmenter
    if "volume" in facts:
        kind = VolumeSegmenter
    elif len(facts["sample_shape"]) == 2:
        kind = StepSegmenter
        given["channel_names"] = facts.get("channel_names", ())
    return kind(model=with_channels_last(found.model.eval()), **given, assumed=assumed)


# Of all other tasks it is a classifier, which says what it is where it is none.
_OPENERS: dict[str, Callable[[Path, Imported], Loaded]] = {
    "segmentation": segmenter_of,
    "detection": detector_of,
}
