"""A segmentation network from a file, of images or of volumes."""

from __future__ import annotations

import os
from pathlib import Path

from nonlocalnn._errors import check_whole
from nonlocalnn.checkpoints import OURS, CheckpointError, Imported, import_checkpoint
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.inference.model_facts import assumed_facts, checked_facts, implied_facts
from nonlocalnn.inference.segmenter import Segmenter
from nonlocalnn.inference.volume_segmenter import VolumeSegmenter
from nonlocalnn.tasks.choice import LOADERS, trained_task


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
    implied = implied_facts(found.model, found.metadata)
    known = {**implied, **found.metadata}
    if trained_task(known) != "segmentation":
        raise CheckpointError(
            f"{path} was trained for {trained_task(known)}: {LOADERS[trained_task(known)]} loads it"
        )
    facts = checked_facts(known, path)
    is_volume = "volume" in facts
    num_outputs = found.model.config["num_classes"]  # type: ignore[index]
    if num_outputs != len(facts["classes"]):
        raise CheckpointError(f"{path} names {len(facts['classes'])} classes of a model with {num_outputs}")
    names = ("classes", "sample_shape", "recipe", "mean", "standard_deviation", "volume")
    given = {name: facts[name] for name in names if name in facts}
    for name in ("resize", "window"):
        if known.get(name) is not None:
            try:
                check_whole(name, known[name], most=2**20)
            except ValueError as error:
                raise CheckpointError(f"{path} does not say what its model takes: {error}") from None
            given[name] = known[name]
    is_ours = found.source == OURS
    taken = [name for name in (implied if is_ours else known) if name in names]
    assumed = assumed_facts(facts, taken, found.metadata if is_ours else ())
    kind = VolumeSegmenter if is_volume else Segmenter
    return kind(model=found.model.eval(), **given, assumed=assumed)
