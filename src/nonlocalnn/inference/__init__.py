"""A trained model from a file, and its answers to files."""

from nonlocalnn.inference.classifier import Classifier, load_classifier
from nonlocalnn.inference.detector import Detected, Detector, load_detector
from nonlocalnn.inference.loading import load_segmenter
from nonlocalnn.inference.segmenter import Segmented, Segmenter
from nonlocalnn.inference.step_segmenter import StepSegmenter
from nonlocalnn.inference.volume_segmenter import VolumeSegmenter

__all__ = [
    "Classifier",
    "Detected",
    "Detector",
    "Segmented",
    "Segmenter",
    "StepSegmenter",
    "VolumeSegmenter",
    "load_classifier",
    "load_detector",
    "load_segmenter",
]
