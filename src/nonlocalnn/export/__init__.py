"""A network as a file that runs without this package: ONNX, or PyTorch's own formats."""

from nonlocalnn.export.formats import METADATA_KEY
from nonlocalnn.export.model import FORMATS, TOLERANCE, ExportReport, Format, describe, export_model

__all__ = ["FORMATS", "METADATA_KEY", "TOLERANCE", "ExportReport", "Format", "describe", "export_model"]
