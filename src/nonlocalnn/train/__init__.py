"""Training: a recipe goes in; weights, a log and a tested result come out."""

from nonlocalnn.train.learner import NonFiniteLossError
from nonlocalnn.train.order import Samples
from nonlocalnn.train.recipe import Recipe
from nonlocalnn.train.result import TrainResult
from nonlocalnn.train.task import ClassificationTask, Task
from nonlocalnn.train.trainer import train

__all__ = ["ClassificationTask", "NonFiniteLossError", "Recipe", "Samples", "Task", "TrainResult", "train"]
