"""The networks by name, and what is done with their weights."""

from models.registry import as_image_shape, build_elastic, build_model, count_parameters, elastic_design
from models.weights import WeightedMean, corruption, load_weights, save_weights

__all__ = [
    "WeightedMean",
    "as_image_shape",
    "build_elastic",
    "build_model",
    "corruption",
    "count_parameters",
    "elastic_design",
    "load_weights",
    "save_weights",
]
