"""Checkpoints: our own, and those of other code bases."""

from nonlocalnn.checkpoints.description import Description, describe
from nonlocalnn.checkpoints.exporting import export_checkpoint
from nonlocalnn.checkpoints.loading import OURS, Imported, import_checkpoint, load_checkpoint
from nonlocalnn.checkpoints.native import read_metadata, save_checkpoint
from nonlocalnn.checkpoints.state import CheckpointError

__all__ = [
    "OURS",
    "CheckpointError",
    "Description",
    "Imported",
    "describe",
    "export_checkpoint",
    "import_checkpoint",
    "load_checkpoint",
    "read_metadata",
    "save_checkpoint",
]
