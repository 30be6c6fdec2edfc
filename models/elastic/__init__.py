"""Elastic networks: cut in width and depth, with an exit after several blocks.

A network is a builder that makes it at any `Shape` of the layers in ``layers``, which name the channels
they stand between. From these names follow what a submodel is (``slicing``), how submodels are merged
(``merging``) and what they cost (``cost``): adding a network needs no change there.
"""

from models.elastic.channels import Axes, Channels, axes_of
from models.elastic.cost import Cost, cost_of
from models.elastic.merging import SliceMean
from models.elastic.network import ElasticDesign, ElasticNetwork, ExitNetwork, Shape
from models.elastic.norms import forget_statistics, has_norms, recalibrate, track_statistics
from models.elastic.planning import Cut
from models.elastic.slicing import PolicyKind, SliceMap, index_policy

__all__ = [
    "Axes",
    "Channels",
    "Cost",
    "Cut",
    "ElasticDesign",
    "ElasticNetwork",
    "ExitNetwork",
    "PolicyKind",
    "Shape",
    "SliceMap",
    "SliceMean",
    "axes_of",
    "cost_of",
    "forget_statistics",
    "has_norms",
    "index_policy",
    "recalibrate",
    "track_statistics",
]
