"""The networks by name, and what is done with their weights."""

from models.registry import build_elastic, build_model, count_parameters, elastic_design
from models.weights import (
    WeightedMean,
    corruption,
    learned_state,
    load_learned_state,
    load_weights,
    save_weights,
    trained_state,
)

__all__ = [
    "WeightedMean",
    "build_elastic",
    "build_model",
    "corruption",
    "count_parameters",
    "elastic_design",
    "learned_state",
    "load_learned_state",
    "load_weights",
    "save_weights",
    "trained_state",
]
