"""DS-FL (Itahara et al. 2021): soft labels sharpened by a softmax at low temperature, and no cache.

It is SCARLET's exchange with D = 0: no label is ever fresh, so every round requests all of P^t.
"""

import torch
from torch import Tensor

from data import PublicPool
from protocol.ledger import FLOAT_BYTES, INDEX_BYTES, soft_label_paper_up
from protocol.settings import RunSettings
from strategies.method import Exchanges, Method
from strategies.sides import ClientSide, ServerSide
from strategies.soft_labels.cache import CachePolicy
from strategies.soft_labels.client import SoftLabelClient
from strategies.soft_labels.server import SentLabels, SoftLabelServer


def era(mean: Tensor, temperature: float) -> Tensor:
    """Reduce the entropy of averaged soft labels: softmax(z̄ / T), taken on probabilities.

    Parameters
    ----------
    mean : Tensor
        Probabilities z̄ averaged over clients, shape (n, classes).
    temperature : float
        T > 0; DS-FL's paper uses 0.1.

    Returns
    -------
    Tensor
        Probabilities, float32, shape (n, classes).
    """
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}: must be greater than 0")
    below_largest = mean.double() - mean.double().amax(dim=-1, keepdim=True)  # no overflow for a tiny T
    return torch.softmax(below_largest / temperature, dim=-1).float()


def _no_cache(settings: RunSettings, pool: PublicPool) -> CachePolicy:
    return CachePolicy(settings.seed, len(pool), settings.public.subset_size, duration=0, expiry="refresh")


def dsfl_paper_down(requested: int, sent: int, classes: int) -> int:
    """Return DS-FL's paper bytes down: 8m for the request, (4C + 8) for each label.

    Parameters
    ----------
    requested
        Number of samples to predict (m).
    sent
        Number of labels sent.
    classes
        Number of classes (C).
    """
    return requested * INDEX_BYTES + sent * (FLOAT_BYTES * classes + INDEX_BYTES)


def dsfl_paper_exchange(subset: int, classes: int) -> int:
    """Return the paper bytes of one DS-FL exchange, both ways: 104,000 at C = 10, m = 1,000."""
    return soft_label_paper_up(subset, classes) + dsfl_paper_down(subset, subset, classes)


def dsfl_server(server: ServerSide, experiment: str) -> SoftLabelServer:
    """Build DS-FL's server half."""

    def paper_down(count: SentLabels) -> int:
        return dsfl_paper_down(count.requested, count.sent + count.caught_up, server.num_classes)

    temperature = server.settings.dsfl.temperature
    policy = _no_cache(server.settings, server.pool)
    return SoftLabelServer(server, experiment, policy, lambda mean: era(mean, temperature), paper_down)


def dsfl_client(client: ClientSide) -> SoftLabelClient:
    """Build DS-FL's client half."""
    return SoftLabelClient(client, _no_cache(client.settings, client.pool))


DSFL = Method("dsfl", Exchanges.LABELS, dsfl_server, dsfl_client, ("distillation", "dsfl"))
