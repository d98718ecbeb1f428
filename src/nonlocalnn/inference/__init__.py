"""A trained model from a file, and its answers to files."""

from nonlocalnn.inference.classifier import Classifier, load_classifier

__all__ = ["Classifier", "load_classifier"]
