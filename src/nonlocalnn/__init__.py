"""Non-local neural networks in PyTorch: exact, in memory linear in the number of positions."""

from nonlocalnn import functional
from nonlocalnn.affinity import capture_affinity
from nonlocalnn.blocks import NonLocal1d, NonLocal2d, NonLocal3d, NonLocalNd, nonlocal_blocks
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from nonlocalnn.classifier import load_classifier
from nonlocalnn.conversion import convert_nonlocal_
from nonlocalnn.cost import cost
from nonlocalnn.finetune import assert_trained, param_groups
from nonlocalnn.functional import split_positions
from nonlocalnn.fusion import fuse_
from nonlocalnn.insertion import InsertionReport, insert_nonlocal_, remove_nonlocal_, sites
from nonlocalnn.models import create_model, inflate_, list_models

__version__ = "0.1.0"

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
