"""The networks by name, and what is done with their weights."""

from models.registry import build_model, count_parameters
from models.weights import WeightedMean, load_weights, save_weights

__all__ = ["WeightedMean", "build_model", "count_parameters", "load_weights", "save_weights"]
