"""A trained network of any task, from its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nonlocalnn.checkpoints import Imported, import_checkpoint
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.inference.classifier import Classifier, classifier_of
from nonlocalnn.inference.detector import Detector, detector_of
from nonlocalnn.inference.model_facts import implied_facts
from nonlocalnn.inference.segmenter import Segmenter
from nonlocalnn.inference.segmenter_file import segmenter_of
from nonlocalnn.tasks.choice import trained_task

Loaded = Classifier | Segmenter | Detector
# Of all other tasks it is a classifier, which says what it is where it is none.
_OPENERS: dict[str, Callable[[Path, Imported], Loaded]] = {
    "segmentation": segmenter_of,
    "detection": detector_of,
}


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
