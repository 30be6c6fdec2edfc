"""The parts of a federation's data: the public pool, the server's test, each client's own.

Every party calls these functions with the same settings and derives the same parts, so that nothing has to be
sent. In a simulation one source is split over the clients; a real node may have its own data instead. Code
that uses `ClientData` does not see the difference.
"""

import functools
import logging
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from data.classes import Classes
from data.forms import Form, digest_of, fit_form, inputs_of
from data.images import Images
from data.partition import MINIMUM_CLIENT_SAMPLES, partition
from data.pool import PublicPool
from data.samples import Samples
from data.sources import Source, load_source
from data.units import Units
from protocol.errors import DataError
from protocol.randomness import torch_generator
from protocol.references import is_reference
from protocol.settings import DEFAULTS, DataSettings, PublicSettings, RunSettings, TextSettings
from protocol.values import NODES, split_source

log = logging.getLogger("flwr")

_MINIMUM_CLIENT_UNITS = 3
"""One to test on and two to train on, because batch norm needs two samples."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The units of a source (int64) by part; each unit is in exactly one part."""

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
        Classes of the whole federation, of which the client may hold only a few.
    """

    train: Samples
    test: Samples
    num_classes: int

    def to(self, device: torch.device | str) -> Self:
        """Return the same data on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True, eq=False)
class Shared:
    """The data that every party of a federation derives identically.

    Parameters
    ----------
    source
        The data that is split; None if every node holds its own.
    parts
        How it is divided; None without a source.
    pool
        The public pool.
    form
        How rows become a network's input, fitted on the public pool.
    classes
        The classes of the federation.
    """

    source: Source | None
    parts: Parts | None
    pool: PublicPool
    form: Form
    classes: Classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.form.shape

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the results needs to know about the data, as JSON values."""
        return {
            "classes": list(self.classes.names),
            "public pool": {"size": len(self.pool), "digest": self.pool.digest},
            "input": self.form.facts(),
        }


def load_shared(settings: RunSettings, public_path: str = "") -> Shared:
    """Load the data that every party derives identically, once per process.

    Parameters
    ----------
    settings
        The run's settings.
    public_path
        Path of the public pool on this machine, if it is not ``public.source``.

    Raises
    ------
    DataError
        If the data cannot be read, or not divided as the settings ask.
    """
    return _shared(_DataKey.of(settings, public_path))


def load_public_pool(settings: RunSettings) -> PublicPool:
    """Load the public pool; raises as `load_shared` does."""
    return load_shared(settings).pool


def load_server_test(settings: RunSettings) -> Samples | None:
    """Load the server's test samples; None if it has none.

    Raises
    ------
    DataError
        If the data cannot be read, or not divided as the settings ask.
    """
    shared, data = load_shared(settings), settings.data
    if data.test_source:
        source = load_source(
            "data.test-source",
            data.test_source,
            data,
            shared.input_shape,
            shared.classes,
            run=_asked_by(settings, data.test_source),
        )
        if data.server_test_size > len(source):
            raise DataError(
                f"data.server-test-size = {data.server_test_size}: must be at most {len(source)}, the number "
                f"of samples in {source.name}, or 0 for all"
            )
        order = torch.randperm(len(source), generator=torch_generator(settings.seed, "server-test"))
        return _samples(source, order[: data.server_test_size or None], shared.form)
    if shared.source is None or shared.parts is None:
        return None
    return _samples(shared.source, units_of(shared.source).rows(shared.parts.server_test), shared.form)


def load_withheld(settings: RunSettings) -> Samples:
    """Load the ``data.withheld-size`` samples that nobody trains on.

    Raises
    ------
    DataError
        If the data cannot be read, or not divided as the settings ask.
    """
    shared = load_shared(settings)
    if shared.source is None or shared.parts is None:
        raise DataError(f'data.source = "{NODES}": there is no common source to withhold samples from')
    return _samples(shared.source, units_of(shared.source).rows(shared.parts.withheld), shared.form)


def load_client_data(
    settings: RunSettings, partition_id: int, num_partitions: int, public_path: str = ""
) -> ClientData:
    """Load one client's samples of a source that is split over the clients.

    Parameters
    ----------
    settings
        The run's settings.
    partition_id
        The client's number, from 0.
    num_partitions
        Number of clients.
    public_path
        Path of the public pool on this machine, if it is not ``public.source``.

    Raises
    ------
    DataError
        If the data cannot be read, or not divided as the settings ask.
    """
    shared = load_shared(settings, public_path)
    if shared.source is None:
        raise DataError(
            f'data.source = "{NODES}": every node needs data-path in its node-config, the path of its own '
            "data; in a simulation, where nodes have none, name a source to split"
        )
    units = _client_units(_DataKey.of(settings, public_path), num_partitions)
    who = f"client {partition_id} of {num_partitions}"
    return _client_data(shared.source, units[partition_id], shared, settings.data, who)


def load_own_data(settings: RunSettings, path: str, public_path: str, client: str) -> ClientData:
    """Load a node's own data.

    Parameters
    ----------
    settings
        The run's settings.
    path
        Path of the data, as `read_rows` opens it, or a reference.
    public_path
        Path of the public pool on this machine; empty: that of ``public.source``.
    client
        The node's name.

    Raises
    ------
    DataError
        If the run splits one source, or the node's data cannot be used.
    """
    data = settings.data
    if data.source != NODES:
        raise DataError(
            f'data-path = "{path}" (node-config): this run splits data.source = "{data.source}" over the '
            f'nodes; with data.source = "{NODES}" each uses its own'
        )
    shared = load_shared(settings, public_path)
    shape, classes = shared.input_shape, shared.classes
    source = load_source(
        "data-path",
        path,
        data,
        shape,
        classes,
        keys=("group",),
        max_samples=data.max_samples,
        run=_asked_by(settings, path),
    )
    units = units_of(source)
    order = torch.randperm(len(units), generator=torch_generator(settings.seed, "own-data", client=client))
    if len(source) < MINIMUM_CLIENT_SAMPLES:
        raise DataError(
            f'data-path = "{path}": holds {len(source)} samples; a client needs {MINIMUM_CLIENT_SAMPLES}'
        )
    _log_absent_classes(source, classes, client)
    return _client_data(source, order, shared, data, f'data-path = "{path}"')


def split_parts(
    source: Source, data_settings: DataSettings, public_settings: PublicSettings, seed: int
) -> Parts:
    """Divide a source at random into the public pool, the server's test, withheld samples and private ones.

    A public pool or a server's test that has a source of its own takes nothing from this one. Where groups
    are kept together, a part may be larger than asked for by less than one group.

    Parameters
    ----------
    source
        The source to divide.
    data_settings
        The sizes of the server's test and of the withheld part.
    public_settings
        The size of the public pool.
    seed
        Seed of the division.

    Raises
    ------
    DataError
        If the other parts leave too few private samples.
    """
    units = units_of(source)
    public = 0 if public_settings.source else public_settings.size
    test = 0 if data_settings.test_source else data_settings.server_test_size
    withheld = data_settings.withheld_size
    order = torch.randperm(len(units), generator=torch_generator(seed, "parts"))
    ends = [
        units.first_with(order, min(size, len(source)))
        for size in (public, public + test, public + test + withheld)
    ]
    extra = f" and data.withheld-size = {withheld}" if withheld else ""
    sizes = f"public.size = {public} and data.server-test-size = {test}{extra}"
    if public + test + withheld > len(source) - MINIMUM_CLIENT_SAMPLES:
        raise DataError(
            f"{sizes}: together they must be at most {len(source) - MINIMUM_CLIENT_SAMPLES}, because "
            f"{source.name} has {len(source)} samples and a client needs {MINIMUM_CLIENT_SAMPLES}"
        )
    if ends[-1] > len(units) - MINIMUM_CLIENT_SAMPLES:
        raise DataError(
            f"{sizes}: together they take {ends[-1]} of the {len(units)} groups by data.group = "
            f'"{data_settings.group}" in {source.name}, and a client needs {MINIMUM_CLIENT_SAMPLES}'
        )
    return Parts(*torch.tensor_split(order, ends))


def units_of(source: Source) -> Units:
    """Return the units of a source that are never divided: its rows, or its groups."""
    return Units.of_rows(len(source)) if source.groups is None else Units.of_groups(source.groups.numbers)


@dataclass(frozen=True)
class _DataKey:
    """The settings that a run's data depend on, as a key for caching."""

    data: DataSettings
    public: PublicSettings
    text: TextSettings
    checkpoint: str
    seed: int
    public_path: str
    run: RunSettings
    """All settings, if user code is called, which may read any; otherwise the defaults."""

    @classmethod
    def of(cls, run: RunSettings, public_path: str) -> Self:
        whole = _asked_by(run, run.data.source, run.public.source, public_path)
        return cls(run.data, run.public, run.text, run.checkpoint, run.seed, public_path, whole)


def _asked_by(run: RunSettings, *sources: str) -> RunSettings:
    """Return the run's settings if a source is a reference, otherwise the defaults, the same for all runs."""
    return run if any(is_reference(split_source(source)[0]) for source in sources) else DEFAULTS


@functools.lru_cache(maxsize=4)
def _shared(data_key: _DataKey) -> Shared:
    data, public, seed = data_key.data, data_key.public, data_key.seed
    if data.source == NODES:
        classes = _declared_classes(data)
        pool = _pool_source(data_key, None)
        source = parts = None
    else:
        source = load_source(
            "data.source",
            data.source,
            data,
            keys=("site", "group"),
            max_samples=data.max_samples,
            run=data_key.run,
        )
        assert source.classes is not None
        classes, parts = source.classes, split_parts(source, data, public, seed)
        shape = source.content.shape if isinstance(source.content, Images) else None
        pool = _pool_source(data_key, shape) if public.source else source
    rows = _pool_rows(pool, public, parts, seed)
    form = fit_form(pool, rows, data, data_key.text, data_key.checkpoint)
    public_pool = PublicPool(inputs_of(pool, rows, form), digest_of(pool, rows, form))
    return Shared(source, parts, public_pool, form, classes)


def _declared_classes(data: DataSettings) -> Classes:
    if not data.classes:
        raise DataError(
            f'data.classes = "": with data.source = "{NODES}" nobody sees all labels, so the run must name '
            "the classes"
        )
    return Classes.declared(data.classes)


def _pool_source(data_key: _DataKey, image_shape: tuple[int, ...] | None) -> Source:
    public, path = data_key.public, data_key.public_path
    if not public.source:
        raise DataError(
            f'public.source = "": with data.source = "{NODES}" there is nothing to cut the public pool from; '
            "name a data set that every party has"
        )
    setting, place = ("public-path", path) if path else ("public.source", public.source)
    return load_source(setting, place, data_key.data, image_shape, labelled=False, run=data_key.run)


def _pool_rows(pool: Source, public: PublicSettings, parts: Parts | None, seed: int) -> Tensor:
    if not public.source:
        assert parts is not None
        return units_of(pool).rows(parts.public)
    if public.size > len(pool):
        raise DataError(
            f"public.size = {public.size}: must be at most {len(pool)}, the number of samples in {pool.name}"
        )
    return torch.randperm(len(pool), generator=torch_generator(seed, "public-pool"))[: public.size]


@functools.lru_cache(maxsize=4)
def _client_units(data_key: _DataKey, clients: int) -> list[Tensor]:
    shared, data = _shared(data_key), data_key.data
    source = shared.source
    assert source is not None
    assert shared.parts is not None
    private, units = shared.parts.private, units_of(source)
    keys = (source.sites or source.groups) if data.split == "natural" else None
    parts = partition(
        units.majority(source.labels)[private],
        data,
        clients,
        data_key.seed,
        keys=None if keys is None else units.common(keys.numbers, f'data.site = "{data.site}"')[private],
        names=() if keys is None else keys.names,
        weights=units.sizes[private],
    )
    return [private[part] for part in parts]


def _client_data(source: Source, own: Tensor, shared: Shared, data: DataSettings, who: str) -> ClientData:
    """Divide a client's units, in random order, into train and test."""
    units = units_of(source)
    if len(own) < _MINIMUM_CLIENT_UNITS:
        raise DataError(
            f'{who}: holds {len(own)} groups by data.group = "{data.group}"; it needs '
            f"{_MINIMUM_CLIENT_UNITS}, because no group may be in both its training and its test part"
        )
    test_size = round(data.client_test_fraction * len(own))
    test_size = min(max(test_size, 1), len(own) - 2)
    test, train = units.rows(own[:test_size]), units.rows(own[test_size:])
    return ClientData(
        train=_samples(source, train, shared.form),
        test=_samples(source, test, shared.form),
        num_classes=len(shared.classes),
    )


def _samples(source: Source, rows: Tensor, form: Form) -> Samples:
    return Samples(inputs_of(source, rows, form), source.labels[rows])


def _log_absent_classes(source: Source, classes: Classes, client: str) -> None:
    counts = torch.bincount(source.labels, minlength=len(classes))
    if absent := [name for name, count in zip(classes.names, counts.tolist(), strict=True) if not count]:
        log.info(
            "%s holds %d of the federation's %d classes; it has no sample of %s",
            client,
            len(classes) - len(absent),
            len(classes),
            ", ".join(absent),
        )
