"""Checkpoints: our own, and those of other code bases."""

from nonlocalnn.checkpoints.loading import load_checkpoint
from nonlocalnn.checkpoints.native import read_metadata, save_checkpoint
from nonlocalnn.checkpoints.state import CheckpointError

__all__ = ["CheckpointError", "load_checkpoint", "read_metadata", "save_checkpoint"]
