"""Whole networks."""

from nonlocalnn.models.dense import SegmentationNetwork
from nonlocalnn.models.detection import DetectionNetwork
from nonlocalnn.models.digits import DigitsNetwork
from nonlocalnn.models.inflation import inflate_
from nonlocalnn.models.presets import (
    clip_stride,
    create_model,
    list_models,
    model_input,
    model_settings,
    model_task,
    preset_settings,
    sample_shape,
)
from nonlocalnn.models.resnet import ResidualNetwork
from nonlocalnn.models.unet import UNet1d, UNet3d

__all__ = [
    "DetectionNetwork",
    "DigitsNetwork",
    "ResidualNetwork",
    "SegmentationNetwork",
    "UNet1d",
    "UNet3d",
    "clip_stride",
    "create_model",
    "inflate_",
    "list_models",
    "model_input",
    "model_settings",
    "model_task",
    "preset_settings",
    "sample_shape",
]
