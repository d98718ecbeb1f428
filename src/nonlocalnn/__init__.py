"""Non-local neural networks in PyTorch: exact, in memory linear in the number of positions."""

from nonlocalnn import functional
from nonlocalnn._moved import find_moved_modules
from nonlocalnn.affinity import capture_affinity
from nonlocalnn.blocks import NonLocal1d, NonLocal2d, NonLocal3d, NonLocalNd, nonlocal_blocks
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from nonlocalnn.functional import split_positions
from nonlocalnn.inference import load_classifier
from nonlocalnn.models import create_model, inflate_, list_models
from nonlocalnn.models.cost import cost
from nonlocalnn.surgery.conversion import convert_nonlocal_
from nonlocalnn.surgery.finetune import assert_trained, param_groups
from nonlocalnn.surgery.fusion import fuse_
from nonlocalnn.surgery.insertion import InsertionReport, insert_nonlocal_, remove_nonlocal_, sites

__version__ = "0.1.0"

find_moved_modules()

__all__ = [
    "CheckpointError",
    "InsertionReport",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "NonLocalNd",
    "assert_trained",
    "capture_affinity",
    "convert_nonlocal_",
    "cost",
    "create_model",
    "functional",
    "fuse_",
    "inflate_",
    "insert_nonlocal_",
    "list_models",
    "load_checkpoint",
    "load_classifier",
    "nonlocal_blocks",
    "param_groups",
    "remove_nonlocal_",
    "save_checkpoint",
    "sites",
    "split_positions",
]
