"""Whole networks."""

from nonlocalnn.models.digits import DigitsNetwork
from nonlocalnn.models.presets import create_model, list_models, model_settings

__all__ = ["DigitsNetwork", "create_model", "list_models", "model_settings"]
