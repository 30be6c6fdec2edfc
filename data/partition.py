"""How private samples are split over clients, mostly by Flower Datasets' partitioners."""

import heapq
import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from protocol.errors import DataError
from protocol.randomness import derive_seed, torch_generator
from protocol.settings import DataSettings

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

MINIMUM_CLIENT_SAMPLES = 4  # a train and a test part; batch norm needs two samples to train on
_MOST_NAMES = 10  # in a message


def partition(
    targets: Tensor,
    settings: DataSettings,
    clients: int,
    seed: int,
    *,
    keys: Tensor | None = None,
    names: Sequence[str] = (),
    weights: Tensor | None = None,
) -> list[Tensor]:
    """Split samples over clients, each sample to exactly one.

    What is split may be groups of samples, as all of one patient; each then counts as one sample
    does, except in ``natural``.

    Parameters
    ----------
    targets
        Int64 tensor of shape (N,): the class of each sample.
    settings
        Says which split: ``iid``; ``dirichlet``, equal sizes (within one) with each client's
        class shares drawn from Dir(alpha); ``dirichlet-unequal``, each class's shares over the
        clients drawn from Dir(alpha); ``pathological``, ``classes-per-client`` classes each;
        ``shards``, equal sizes (within one) in ``shards-per-client`` runs each of the samples
        sorted by class; ``linear`` and ``exponential``, at random with client i's size in
        proportion to i + 1 or e^i; ``natural``, whole sites (see :func:`natural`).
    clients
        Number of parts.
    seed
        Seed of the split.
    keys, names, weights
        For ``natural``, see there. In other splits ``weights`` only tells whether error messages speak of
        samples or of groups.

    Returns
    -------
    list[Tensor]
        For each client the int64 indices of its samples in ``targets``, in random order.

    Raises
    ------
    DataError
        If the split is impossible, or leaves a client fewer than ``MINIMUM_CLIENT_SAMPLES``.
    """
    if settings.split == "natural":
        if keys is None:
            raise DataError('data.split = "natural": needs data.site or data.group, the column to split by')
        return natural(keys, names, settings, clients, seed, weights)
    unit = "samples" if weights is None or bool((weights == 1).all()) else "groups"
    # Partitioners own out a class in the order of the data set, and sources are rarely in random order.
    order = torch.randperm(len(targets), generator=torch_generator(seed, "partition-order"))
    # InnerDirichletPartitioner takes classes to be 0, 1, 2, ... without gaps.
    classes, labels = torch.unique(targets[order], return_inverse=True)
    _require_possible(len(targets), len(classes), settings, clients, unit)
    own_seed = derive_seed(seed, "partition")
    if settings.split == "shards":
        return _shards(order, labels, settings.shards_per_client, clients, own_seed)
    partitioner = _partitioner(settings, len(targets), len(classes), clients, own_seed)
    try:
        parts = _divide(partitioner, order, labels)
    except ValueError as error:
        raise _failure(settings, clients, unit) from error
    if min(map(len, parts)) < MINIMUM_CLIENT_SAMPLES:
        raise _failure(settings, clients, unit)
    return parts


def natural(
    keys: Tensor,
    names: Sequence[str],
    settings: DataSettings,
    clients: int,
    seed: int,
    weights: Tensor | None = None,
) -> list[Tensor]:
    """Split samples, or groups of them, over clients by whole sites.

    Sites are assigned from the largest to the smallest, each to the client with the fewest samples so
    far; ties go to the first name and the first client. Clients are ordered by the first name that they
    hold: with as many clients as sites, client i has the i-th site. Who gets which sites does not
    depend on the seed.

    Parameters
    ----------
    keys
        Int64 tensor of shape (N,): the position in ``names`` of each sample's site.
    names
        The sites' names, in any order; sites without a sample are ignored. Sites are ordered by
        name, with numbers by their value: 2 comes before 10.
    settings
        Name the column, for messages.
    clients
        Number of parts, at most the number of sites.
    seed
        Seed of the order of each client's samples.
    weights
        Int64 tensor of shape (N,), above 0: how many samples each group holds; ``None`` if samples
        are split.

    Returns
    -------
    list[Tensor]
        For each client the int64 indices in ``keys`` that are its own, in random order.

    Raises
    ------
    DataError
        If there are more clients than sites, or sites so small that a client has fewer than
        ``MINIMUM_CLIENT_SAMPLES``.
    """
    weights = torch.ones_like(keys) if weights is None else weights
    sites: list[int] = sorted(torch.unique(keys).tolist(), key=lambda site: _name_order(names[site]))
    if not 1 <= clients <= len(sites):
        column = f'data.site = "{settings.site}"' if settings.site else f'data.group = "{settings.group}"'
        raise DataError(
            f'num-partitions = {clients}: must be at most {len(sites)} with data.split = "natural", because '
            f"{column} has {len(sites)} values: {_listed([names[site] for site in sites])}"
        )
    sizes: list[int] = torch.zeros(len(names), dtype=torch.int64).index_add(0, keys, weights).tolist()
    client_of_site = torch.empty(len(names), dtype=torch.int64)
    for client, own in enumerate(_assign_sites(sites, sizes, clients)):
        client_of_site[own] = client
        held = sum(sizes[site] for site in own)
        if held < MINIMUM_CLIENT_SAMPLES:
            raise DataError(
                f'num-partitions = {clients}: with data.split = "natural" a client would hold the {held} '
                f"samples of {_listed([names[site] for site in own])}, and it needs "
                f"{MINIMUM_CLIENT_SAMPLES}; choose fewer clients or another split"
            )
    order = torch.randperm(len(keys), generator=torch_generator(seed, "partition-order"))
    owners = client_of_site[keys[order]]
    return list(torch.split(order[owners.argsort(stable=True)], owners.bincount(minlength=clients).tolist()))


def _assign_sites(sites: Sequence[int], sizes: Sequence[int], clients: int) -> list[list[int]]:
    """Assign sites so that clients' sums of ``sizes[site]`` are nearly equal; order as in ``sites``."""
    assigned: list[list[int]] = [[] for _ in range(clients)]
    held = [(0, client) for client in range(clients)]
    for site in sorted(sites, key=lambda site: -sizes[site]):
        least, client = held[0]
        heapq.heapreplace(held, (least + sizes[site], client))
        assigned[client].append(site)
    place = {site: place for place, site in enumerate(sites)}
    return sorted((sorted(own, key=place.__getitem__) for own in assigned), key=lambda own: place[own[0]])


def _name_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key in which "site 2" comes before "site 10"."""
    pieces = re.split(r"(\d+)", name)  # text and digits in turn, so that like is compared with like
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_MOST_NAMES], "..."] if len(names) > _MOST_NAMES else names)


def _require_possible(samples: int, classes: int, settings: DataSettings, clients: int, unit: str) -> None:
    uneven = settings.split in ("linear", "exponential")
    most = _most_clients(settings, samples) if uneven else samples // MINIMUM_CLIENT_SAMPLES
    if not 1 <= clients <= most:
        split, which = (f' with data.split = "{settings.split}"', "the smallest") if uneven else ("", "a")
        raise DataError(
            f"num-partitions = {clients}: must be 1 to {most}{split}, because there are {samples} private "
            f"{unit} and {which} client needs {MINIMUM_CLIENT_SAMPLES}"
        )
    if settings.split == "pathological":
        fewest = max(1, classes - clients + 1)
        if not fewest <= settings.classes_per_client <= classes:
            raise DataError(
                f"data.classes-per-client = {settings.classes_per_client}: must be {fewest} to {classes} "
                f"with {clients} clients, because there are {classes} classes and some client must hold each"
            )
    if settings.split == "shards" and settings.shards_per_client > samples // clients:
        raise DataError(
            f"data.shards-per-client = {settings.shards_per_client}: must be 1 to {samples // clients} with "
            f"{clients} clients, because there are {samples} private {unit} and no shard may be empty"
        )


def _most_clients(settings: DataSettings, samples: int) -> int:
    """Return the largest number of clients of ``linear`` or ``exponential``; the first client gets least."""

    def least(clients: int) -> int:
        if settings.split == "linear":
            share = 1 / (clients * (clients + 1) // 2)
        else:
            share = math.expm1(1) / math.expm1(clients)  # e / (e + e^2 + ... + e^clients)
        return int(share * samples)  # as the partitioners round, which give the rest to the last client

    most = 0
    while least(most + 1) >= MINIMUM_CLIENT_SAMPLES:
        most += 1
    return most


def _shards(order: Tensor, labels: Tensor, shards: int, clients: int, seed: int) -> list[Tensor]:
    """Sort by class, cut into shards and assign ``shards`` to each client (McMahan et al. 2017, section 3).

    Flower's ShardPartitioner does so too, but drops the samples that do not fill shards of equal size.
    """
    generator = torch.Generator().manual_seed(seed)
    # Each client's own size is divided into its shards, so that the sizes of clients differ by at most one.
    wholes = torch.arange(len(order)).tensor_split(clients)
    sizes = torch.tensor([len(shard) for whole in wholes for shard in whole.tensor_split(shards)])
    # The shard at each place in the order of classes; client 0 owns the first shards, client 1 the next.
    shuffled = torch.randperm(len(sizes), generator=generator)
    cut = torch.split(order[labels.argsort(stable=True)], sizes[shuffled].tolist())
    assigned = shuffled.argsort().view(clients, shards).tolist()
    parts = [torch.cat([cut[place] for place in own]) for own in assigned]
    return [part[torch.randperm(len(part), generator=generator)] for part in parts]


def _partitioner(
    settings: DataSettings, samples: int, classes: int, clients: int, seed: int
) -> "Partitioner":
    # This import takes seconds, because Flower Datasets brings its plotting libraries along.
    from flwr_datasets.partitioner import (
        DirichletPartitioner,
        ExponentialPartitioner,
        IidPartitioner,
        InnerDirichletPartitioner,
        LinearPartitioner,
        PathologicalPartitioner,
    )

    match settings.split:
        case "iid":
            return IidPartitioner(clients)
        case "dirichlet":
            sizes = [len(part) for part in torch.arange(samples).tensor_split(clients)]
            return InnerDirichletPartitioner(sizes, "class", settings.alpha, seed=seed)
        case "dirichlet-unequal":
            return DirichletPartitioner(clients, "class", settings.alpha, MINIMUM_CLIENT_SAMPLES, seed=seed)
        case "pathological":
            # The usual mode gives client i class i and others at random, so it needs as many clients as
            # classes to cover them all; the other gives client i classes i, i+1, ... whatever their number.
            mode = "first-deterministic" if clients >= classes else "deterministic"
            return PathologicalPartitioner(clients, "class", settings.classes_per_client, mode, seed=seed)
        case "linear":
            return LinearPartitioner(clients)
        case "exponential":
            return ExponentialPartitioner(clients)
        case "shards" | "natural":
            raise AssertionError(f"{settings.split} has no partitioner")


def _divide(partitioner: "Partitioner", order: Tensor, labels: Tensor) -> list[Tensor]:
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"class": labels.numpy(), "index": order.numpy()})
    with warnings.catch_warnings():
        # The partitioners warn of draws that they repeat, and raise when they give up.
        warnings.simplefilter("ignore")
        parts = [partitioner.load_partition(client) for client in range(partitioner.num_partitions)]
    return [torch.tensor(part["index"][:], dtype=torch.int64) for part in parts]


def _failure(settings: DataSettings, clients: int, unit: str) -> DataError:
    if settings.split == "pathological":
        setting, remedy = f"data.classes-per-client = {settings.classes_per_client}", "fewer classes"
    else:
        setting, remedy = f"data.alpha = {settings.alpha}", "a larger alpha"
    return DataError(
        f'{setting}: no split of kind data.split = "{settings.split}" was found that gives each of {clients} '
        f"clients {MINIMUM_CLIENT_SAMPLES} {unit}; choose {remedy}, fewer clients or another split"
    )
