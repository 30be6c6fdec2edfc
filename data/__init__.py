"""Where samples come from, how they are split over the federation, and what a batch is."""

from data.augmentation import augment
from data.federation import (
    ClientData,
    Parts,
    Shared,
    load_client_data,
    load_own_data,
    load_public_pool,
    load_server_test,
    load_shared,
    load_withheld,
    split_parts,
)
from data.inputs import Inputs, in_batches
from data.partition import partition
from data.pool import PublicPool
from data.samples import Samples, batches
from data.sources import Source, load_source

__all__ = [
    "ClientData",
    "Inputs",
    "Parts",
    "PublicPool",
    "Samples",
    "Shared",
    "Source",
    "augment",
    "batches",
    "in_batches",
    "load_client_data",
    "load_own_data",
    "load_public_pool",
    "load_server_test",
    "load_shared",
    "load_source",
    "load_withheld",
    "partition",
    "split_parts",
]
