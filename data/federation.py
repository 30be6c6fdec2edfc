"""The parts of a federation's data: the public pool, the server's test, each client's own.

Every party calls these functions with the same settings and finds the same parts, so that none has to be
sent. In a simulation one source is split over the clients; a real node may bring its own instead. From
there on nothing tells the two apart.
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
from protocol.settings import DataSettings, PublicSettings, RunSettings, TextSettings
from protocol.values import NODES

log = logging.getLogger("flwr")

_FEWEST_UNITS = 3
"""A client tests on one and trains on two, which batch norm needs."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Units (int64) of a source; no unit is in two parts, and each is in one."""

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
    """What every party of a federation finds alike.

    Parameters
    ----------
    source
        The data that is split; None if every node holds its own.
    parts
        How it is divided; None without a source.
    pool
        The public pool.
    form
        How rows become a network's input.
    classes
        Of the federation.
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
        """Return what a reader of the results must know of the data, as JSON holds it."""
        return {
            "classes": list(self.classes.names),
            "public pool": {"size": len(self.pool), "digest": self.pool.digest},
            "input": self.form.facts(),
        }


def load_shared(settings: RunSettings, public_path: str = "") -> Shared:
    """Load what every party finds alike, once a process.

    Parameters
    ----------
    public_path
        Where ``public.source`` lies on this machine, if elsewhere.

    Raises
    ------
    DataError
        If the data cannot be read, or not divided as the settings ask.
    """
    return _shared(_Question.of(settings, public_path))


def load_public_pool(settings: RunSettings) -> PublicPool:
    """Load the public pool; raises as `load_shared` does."""
    return load_shared(settings).pool


def load_server_test(settings: RunSettings) -> Samples | None:
    """Load the samples on which the server tests; None if it holds none.

    Raises
    ------
    DataError
        If the data cannot be read, or not divided as the settings ask.
    """
    shared, data = load_shared(settings), settings.data
    if data.test_source:
        source = load_source("data.test-source", data.test_source, data, shared.input_shape, shared.classes)
        if data.server_test_size > len(source):
            raise DataError(
                f"data.server-test-size = {data.server_test_size}: must be at most {len(source)}, which is "
                f"what {source.name} holds, or 0 for all"
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
        raise DataError(f'data.source = "{NODES}": there is no source of which samples could be withheld')
    return _samples(shared.source, units_of(shared.source).rows(shared.parts.withheld), shared.form)


def load_client_data(
    settings: RunSettings, partition_id: int, num_partitions: int, public_path: str = ""
) -> ClientData:
    """Load the samples of the client with ``partition_id``, one of ``num_partitions``.

    Parameters
    ----------
    public_path
        Where ``public.source`` lies on this machine, if elsewhere.

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
    units = _client_units(_Question.of(settings, public_path), num_partitions)
    who = f"client {partition_id} of {num_partitions}"
    return _client_data(shared.source, units[partition_id], shared, settings.data, who)


def load_own_data(settings: RunSettings, path: str, public_path: str, client: str) -> ClientData:
    """Load the data that a node holds itself.

    Parameters
    ----------
    path
        Of the data, as `read_rows` opens it.
    public_path
        Where ``public.source`` lies on this machine, if elsewhere.
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
        "data-path", path, data, shape, classes, keys=("group",), max_samples=data.max_samples
    )
    units = units_of(source)
    order = torch.randperm(len(units), generator=torch_generator(settings.seed, "own-data", client=client))
    if len(source) < MINIMUM_CLIENT_SAMPLES:
        raise DataError(
            f'data-path = "{path}": holds {len(source)} samples; a client needs {MINIMUM_CLIENT_SAMPLES}'
        )
    _mention_absent(source, classes, client)
    return _client_data(source, order, shared, data, f'data-path = "{path}"')


def split_parts(
    source: Source, data_settings: DataSettings, public_settings: PublicSettings, seed: int
) -> Parts:
    """Divide a source at random into the public pool, the server's test, what is withheld, and the rest.

    What has a source of its own takes nothing of this one. Where groups are kept together a part may be
    larger by less than a group.

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
            f"{sizes}: together they must be at most {len(source) - MINIMUM_CLIENT_SAMPLES}, for "
            f"{source.name} has {len(source)} samples and a client needs {MINIMUM_CLIENT_SAMPLES}"
        )
    if ends[-1] > len(units) - MINIMUM_CLIENT_SAMPLES:
        raise DataError(
            f"{sizes}: together they take {ends[-1]} of the {len(units)} groups by data.group = "
            f'"{data_settings.group}" in {source.name}, and a client needs {MINIMUM_CLIENT_SAMPLES}'
        )
    return Parts(*torch.tensor_split(order, ends))


def units_of(source: Source) -> Units:
    """Return what of a source is never divided: its rows, or its groups."""
    return Units.of_rows(len(source)) if source.groups is None else Units.of_groups(source.groups.numbers)


@dataclass(frozen=True)
class _Question:
    """All of a run's settings on which its data depend."""

    data: DataSettings
    public: PublicSettings
    text: TextSettings
    pretrained: str
    seed: int
    public_path: str

    @classmethod
    def of(cls, run: RunSettings, public_path: str) -> Self:
        return cls(run.data, run.public, run.text, run.pretrained, run.seed, public_path)


@functools.lru_cache(maxsize=4)
def _shared(question: _Question) -> Shared:
    data, public, seed, public_path = question.data, question.public, question.seed, question.public_path
    if data.source == NODES:
        classes = _declared_classes(data)
        pool = _pool_source(data, public, public_path, None)
        source = parts = None
    else:
        source = load_source(
            "data.source", data.source, data, keys=("site", "group"), max_samples=data.max_samples
        )
        assert source.classes is not None
        classes, parts = source.classes, split_parts(source, data, public, seed)
        shape = source.content.shape if isinstance(source.content, Images) else None
        pool = _pool_source(data, public, public_path, shape) if public.source else source
    rows = _pool_rows(pool, public, parts, seed)
    form = fit_form(pool, rows, data, question.text, question.pretrained)
    public_pool = PublicPool(inputs_of(pool, rows, form), digest_of(pool, rows, form))
    return Shared(source, parts, public_pool, form, classes)


def _declared_classes(data: DataSettings) -> Classes:
    if not data.classes:
        raise DataError(
            f'data.classes = "": with data.source = "{NODES}" nobody sees all labels, so the run must say '
            "which classes there are"
        )
    return Classes.declared(data.classes)


def _pool_source(
    data: DataSettings, public: PublicSettings, path: str, like: tuple[int, ...] | None
) -> Source:
    if not public.source:
        raise DataError(
            f'public.source = "": with data.source = "{NODES}" there is nothing to cut the public pool from; '
            "name the data that all hold"
        )
    setting, place = ("public-path", path) if path else ("public.source", public.source)
    return load_source(setting, place, data, like, labelled=False)


def _pool_rows(pool: Source, public: PublicSettings, parts: Parts | None, seed: int) -> Tensor:
    if not public.source:
        assert parts is not None
        return units_of(pool).rows(parts.public)
    if public.size > len(pool):
        raise DataError(
            f"public.size = {public.size}: must be at most {len(pool)}, which is what {pool.name} holds"
        )
    return torch.randperm(len(pool), generator=torch_generator(seed, "public-pool"))[: public.size]


@functools.lru_cache(maxsize=4)
def _client_units(question: _Question, clients: int) -> list[Tensor]:
    shared, data = _shared(question), question.data
    source = shared.source
    assert source is not None
    assert shared.parts is not None
    private, units = shared.parts.private, units_of(source)
    keys = (source.sites or source.groups) if data.split == "natural" else None
    parts = partition(
        units.majority(source.labels)[private],
        data,
        clients,
        question.seed,
        keys=None if keys is None else units.common(keys.numbers, f'data.site = "{data.site}"')[private],
        names=() if keys is None else keys.names,
        weights=units.sizes[private],
    )
    return [private[part] for part in parts]


def _client_data(source: Source, own: Tensor, shared: Shared, data: DataSettings, who: str) -> ClientData:
    """Divide a client's units, in random order, into train and test."""
    units = units_of(source)
    if len(own) < _FEWEST_UNITS:
        raise DataError(
            f'{who}: holds {len(own)} of the groups that data.group = "{data.group}" keeps together; it '
            f"needs {_FEWEST_UNITS}, for none may be in its training and in its test part"
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


def _mention_absent(source: Source, classes: Classes, client: str) -> None:
    counts = torch.bincount(source.labels, minlength=len(classes))
    if absent := [name for name, count in zip(classes.names, counts.tolist(), strict=True) if not count]:
        log.info(
            "%s holds %d of the federation's %d classes; it has no sample of %s",
            client,
            len(classes) - len(absent),
            len(classes),
            ", ".join(absent),
        )
