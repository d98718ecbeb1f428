"""Non-local neural networks in PyTorch: exact, in memory linear in the number of positions."""

from nonlocalnn import functional
from nonlocalnn.affinity import capture_affinity
from nonlocalnn.blocks import NonLocal1d, NonLocal2d, NonLocal3d, NonLocalNd
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from nonlocalnn.classifier import load_classifier
from nonlocalnn.cost import cost
from nonlocalnn.fusion import fuse_
from nonlocalnn.models import create_model, inflate_, list_models

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "NonLocalNd",
    "capture_affinity",
    "cost",
    "create_model",
    "functional",
    "fuse_",
    "inflate_",
    "list_models",
    "load_checkpoint",
    "load_classifier",
    "save_checkpoint",
]
