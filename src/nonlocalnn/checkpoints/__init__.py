"""Checkpoints: our own, and those of other code bases."""

from nonlocalnn.checkpoints.exporting import export_checkpoint
from nonlocalnn.checkpoints.loading import Imported, import_checkpoint, load_checkpoint
from nonlocalnn.checkpoints.native import read_metadata, save_checkpoint
from nonlocalnn.checkpoints.state import CheckpointError

__all__ = [
    "CheckpointError",
    "Imported",
    "export_checkpoint",
    "import_checkpoint",
    "load_checkpoint",
    "read_metadata",
    "save_checkpoint",
]
