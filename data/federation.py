"""The parts of a data set in a federation: the public pool, the server's test, each client's own.

Every party calls these functions with the same settings and finds the same parts, so that none
has to be sent.
"""

import functools
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from data.partition import MINIMUM_CLIENT_SAMPLES, partition
from data.pool import PublicPool
from data.samples import Samples
from data.sources import Source, load_source
from protocol.errors import DataError
from protocol.randomness import torch_generator
from protocol.settings import DataSettings, PublicSettings, RunSettings


@dataclass(frozen=True, eq=False)
class Parts:
    """Indices (int64) into a source; no index is in two parts, and each is in one."""

    public: Tensor
    server_test: Tensor
    withheld: Tensor
    private: Tensor


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds.

    Parameters
    ----------
    train
        Samples it learns from, at least two.
    test
        Samples of the same distribution kept for its own test, at least one.
    num_classes
        Classes of the whole data set, of which the client may hold only a few.
    """

    train: Samples
    test: Samples
    num_classes: int

    def to(self, device: torch.device | str) -> Self:
        """Return the same data on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load_client_data(settings: RunSettings, partition_id: int, num_partitions: int) -> ClientData:
    """Load the samples of the client with ``partition_id``, one of ``num_partitions``.

    Raises
    ------
    DataError
        If the data cannot be divided as the settings ask.
    """
    source = load_source(settings.data.source, settings.data.max_samples)
    own = _client_indices(settings.data, settings.public, settings.seed, num_partitions)[partition_id]
    test_size = round(settings.data.client_test_fraction * len(own))
    test_size = min(max(test_size, 1), len(own) - 2)
    return ClientData(
        train=source.samples.take(own[test_size:]),
        test=source.samples.take(own[:test_size]),  # a random share, for the order is random
        num_classes=source.num_classes,
    )


def load_server_test(settings: RunSettings) -> Samples:
    """Load the ``data.server-test-size`` samples on which the server tests.

    Raises
    ------
    DataError
        If the data cannot be divided as the settings ask.
    """
    source = load_source(settings.data.source, settings.data.max_samples)
    return source.samples.take(split_parts(source, settings.data, settings.public, settings.seed).server_test)


def load_withheld(settings: RunSettings) -> Samples:
    """Load the ``data.withheld-size`` samples that nobody trains on.

    Raises
    ------
    DataError
        If the data cannot be divided as the settings ask.
    """
    source = load_source(settings.data.source, settings.data.max_samples)
    return source.samples.take(split_parts(source, settings.data, settings.public, settings.seed).withheld)


def load_public_pool(settings: RunSettings) -> PublicPool:
    """Load the ``public.size`` images of the public pool, once a process.

    Raises
    ------
    DataError
        If the data cannot be divided as the settings ask.
    """
    return _public_pool(settings.data, settings.public, settings.seed)


def split_parts(
    source: Source, data_settings: DataSettings, public_settings: PublicSettings, seed: int
) -> Parts:
    """Divide a source at random into the public pool, the server's test, what is withheld, and the rest.

    Raises
    ------
    DataError
        If the other parts leave too few private samples.
    """
    public, test, available = public_settings.size, data_settings.server_test_size, len(source.samples)
    withheld = data_settings.withheld_size
    if public + test + withheld > available - MINIMUM_CLIENT_SAMPLES:
        extra = f" and data.withheld-size = {withheld}" if withheld else ""
        raise DataError(
            f"public.size = {public} and data.server-test-size = {test}{extra}: together they must be at "
            f"most {available - MINIMUM_CLIENT_SAMPLES}, for {source.name} has {available} samples and a "
            f"client needs {MINIMUM_CLIENT_SAMPLES}"
        )
    order = torch.randperm(available, generator=torch_generator(seed, "parts"))
    sizes = [public, test, withheld, available - public - test - withheld]
    return Parts(*torch.split(order, sizes))


@functools.lru_cache
def _public_pool(data: DataSettings, public: PublicSettings, seed: int) -> PublicPool:
    source = load_source(data.source, data.max_samples)
    return PublicPool.of(source.samples.inputs[split_parts(source, data, public, seed).public])


@functools.lru_cache
def _client_indices(data: DataSettings, public: PublicSettings, seed: int, clients: int) -> list[Tensor]:
    source = load_source(data.source, data.max_samples)
    private = split_parts(source, data, public, seed).private
    parts = partition(source.samples.targets[private], data, clients, seed)
    return [private[part] for part in parts]
