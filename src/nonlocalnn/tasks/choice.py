"""Which task a recipe trains, and which one a trained network's file is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nonlocalnn._errors import check_choice
from nonlocalnn._names import MASK_SETS, OBJECT_SETS, STEP_SETS, TASKS, VOLUME_MASK_SETS
from nonlocalnn.tasks.classification import ClassificationTask
from nonlocalnn.tasks.detection import DetectionTask
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.tasks.segmentation import SegmentationTask
from nonlocalnn.tasks.step_labels import StepLabelsTask
from nonlocalnn.tasks.volume_segmentation import VolumeSegmentationTask

# What loads a network that was trained for each task.
LOADERS = {
    "classification": "load_classifier",
    "segmentation": "nonlocalnn.inference.load_segmenter",
    "detection": "nonlocalnn.inference.load_detector",
}


def task_of(
    recipe: Recipe,
) -> ClassificationTask | SegmentationTask | VolumeSegmentationTask | StepLabelsTask | DetectionTask:
    """Return the task of a recipe; where it names none, the data set tells it.

    Raises:
        ValueError: The network, or a setting, does not fit the data.

    Example:
        >>> type(task_of(Recipe(data="segment-cue"))).__name__, type(task_of(Recipe())).__name__
        ('SegmentationTask', 'ClassificationTask')
    """
    # A recipe refuses a task that is not its data's, so that the data alone decides.
    if recipe.data in OBJECT_SETS:
        return DetectionTask(recipe)
    if recipe.data in VOLUME_MASK_SETS:
        return VolumeSegmentationTask(recipe)
    if recipe.data in STEP_SETS:
        return StepLabelsTask(recipe)
    return SegmentationTask(recipe) if recipe.data in MASK_SETS else ClassificationTask(recipe)


def trained_task(metadata: Mapping[str, Any]) -> str:
    """Return the task that a network was trained for, by what its checkpoint says.

    Files of before there were several tasks name none: they are of classification.

    Args:
        metadata: What :meth:`~nonlocalnn.tasks.contract.Task.metadata` gave.

    Raises:
        ValueError: It names a task that this version does not know.

    Example:
        >>> trained_task({"classes": ["a", "b"]}), trained_task({"task": "segmentation"})
        ('classification', 'segmentation')
    """
    task = metadata.get("task", TASKS[0])
    check_choice("task", task, TASKS)
    assert isinstance(task, str)
    return task
