"""Training: a recipe goes in; weights, a log and a tested result come out."""

from nonlocalnn.tasks.classification import ClassificationTask
from nonlocalnn.tasks.contract import Samples, Task
from nonlocalnn.tasks.detection import DetectionTask
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.tasks.segmentation import SegmentationTask
from nonlocalnn.tasks.step_labels import StepLabelsTask
from nonlocalnn.tasks.volume_segmentation import VolumeSegmentationTask
from nonlocalnn.train.learner import NonFiniteLossError
from nonlocalnn.train.result import TrainResult
from nonlocalnn.train.trainer import train

__all__ = [
    "ClassificationTask",
    "DetectionTask",
    "NonFiniteLossError",
    "Recipe",
    "Samples",
    "SegmentationTask",
    "StepLabelsTask",
    "Task",
    "TrainResult",
    "VolumeSegmentationTask",
    "train",
]
