"""How private samples are split over clients, by Flower Datasets' partitioners."""

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from protocol.errors import DataError
from protocol.randomness import derive_seed, torch_generator
from protocol.settings import DataSettings

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

MINIMUM_CLIENT_SAMPLES = 4  # a train and a test part, of which batch norm needs two to train on


def partition(targets: Tensor, settings: DataSettings, clients: int, seed: int) -> list[Tensor]:
    """Split samples over clients, each sample to exactly one.

    Parameters
    ----------
    targets
        Int64 tensor of shape (N,): the class of each sample.
    settings
        Says which split: ``iid``; ``dirichlet``, equal sizes (within one) with each client's
        class shares drawn from Dir(alpha); ``dirichlet-unequal``, each class's shares over the
        clients drawn from Dir(alpha); ``pathological``, ``classes-per-client`` classes each.
    clients
        Number of parts.
    seed
        All that the split depends on besides the above.

    Returns
    -------
    list[Tensor]
        For each client the int64 indices of its samples in ``targets``, in random order.

    Raises
    ------
    DataError
        If the split is impossible, or leaves a client fewer than ``MINIMUM_CLIENT_SAMPLES``.
    """
    # Partitioners hand out a class in the order of the data set, and sources are rarely in random order.
    order = torch.randperm(len(targets), generator=torch_generator(seed, "partition-order"))
    # InnerDirichletPartitioner takes classes to be 0, 1, 2, ... without gaps.
    classes, labels = torch.unique(targets[order], return_inverse=True)
    _require_possible(len(targets), len(classes), settings, clients)
    partitioner = _partitioner(settings, len(targets), len(classes), clients, derive_seed(seed, "partition"))
    try:
        parts = _divide(partitioner, order, labels)
    except ValueError as error:
        raise _failure(settings, clients) from error
    if min(map(len, parts)) < MINIMUM_CLIENT_SAMPLES:
        raise _failure(settings, clients)
    return parts


def _require_possible(samples: int, classes: int, settings: DataSettings, clients: int) -> None:
    if not 1 <= clients <= samples // MINIMUM_CLIENT_SAMPLES:
        raise DataError(
            f"num-partitions = {clients}: must be 1 to {samples // MINIMUM_CLIENT_SAMPLES}, for there are "
            f"{samples} private samples and a client needs {MINIMUM_CLIENT_SAMPLES}"
        )
    if settings.split == "pathological":
        fewest = max(1, classes - clients + 1)
        if not fewest <= settings.classes_per_client <= classes:
            raise DataError(
                f"data.classes-per-client = {settings.classes_per_client}: must be {fewest} to {classes} "
                f"with {clients} clients, for there are {classes} classes and each needs one that holds it"
            )


def _partitioner(
    settings: DataSettings, samples: int, classes: int, clients: int, seed: int
) -> "Partitioner":
    # This import takes seconds, because Flower Datasets brings its plotting libraries along.
    from flwr_datasets.partitioner import (
        DirichletPartitioner,
        IidPartitioner,
        InnerDirichletPartitioner,
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


def _divide(partitioner: "Partitioner", order: Tensor, labels: Tensor) -> list[Tensor]:
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"class": labels.numpy(), "index": order.numpy()})
    with warnings.catch_warnings():
        # The partitioners warn of draws that they repeat, and raise when they give up.
        warnings.simplefilter("ignore")
        parts = [partitioner.load_partition(client) for client in range(partitioner.num_partitions)]
    return [torch.tensor(part["index"][:], dtype=torch.int64) for part in parts]


def _failure(settings: DataSettings, clients: int) -> DataError:
    if settings.split == "pathological":
        setting, remedy = f"data.classes-per-client = {settings.classes_per_client}", "fewer classes"
    else:
        setting, remedy = f"data.alpha = {settings.alpha}", "a larger alpha"
    return DataError(
        f'{setting}: no split of kind data.split = "{settings.split}" was found that gives each of {clients} '
        f"clients {MINIMUM_CLIENT_SAMPLES} samples; choose {remedy}, fewer clients or another split"
    )
