"""A trained model from a file, and its answers to files."""

from nonlocalnn.inference.classifier import Classifier, load_classifier
from nonlocalnn.inference.segmenter import Segmented, Segmenter, load_segmenter

__all__ = ["Classifier", "Segmented", "Segmenter", "load_classifier", "load_segmenter"]
