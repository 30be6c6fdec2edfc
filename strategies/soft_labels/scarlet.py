"""SCARLET: soft-label caching and sharpening for communication-efficient federated distillation.

Azuma et al., IEEE TMC 2026, arXiv 2504.19602. Clients share class probabilities on public samples,
never weights, so each may have a different network. The package's docstring lists the parts of a round. This
file has what is specific to SCARLET: the cache's duration D and expiry, and Enhanced ERA with its exponent β.
"""

import torch
from torch import Tensor

from data import PublicPool
from protocol.ledger import FLOAT_BYTES, INDEX_BYTES, SIGNAL_BYTES
from protocol.settings import RunSettings
from strategies.method import Exchanges, Method
from strategies.sides import ClientSide, ServerSide
from strategies.soft_labels.cache import CachePolicy
from strategies.soft_labels.client import SoftLabelClient
from strategies.soft_labels.server import SentLabels, SoftLabelServer


def enhanced_era(mean: Tensor, beta: float) -> Tensor:
    """Sharpen (β > 1) or flatten (β < 1) averaged soft labels; β = 1 is the identity.

    ẑ_i ∝ z̄_i^β, the paper's Enhanced ERA. Computed as softmax(β·log z̄) in float64: the power
    itself underflows to 0/0 for large β or many classes.

    Parameters
    ----------
    mean : Tensor
        Probabilities z̄ averaged over clients, shape (n, classes).
    beta : float
        The exponent β > 0.

    Returns
    -------
    Tensor
        Probabilities ẑ, float32, shape (n, classes).
    """
    if beta <= 0:
        raise ValueError(f"beta = {beta}: must be greater than 0")
    return torch.softmax(beta * torch.log(mean.double()), dim=-1).float()


def cache_policy(settings: RunSettings, pool: PublicPool) -> CachePolicy:
    """Return SCARLET's cache as the settings define it, for a pool."""
    return CachePolicy(
        settings.seed,
        len(pool),
        settings.public.subset_size,
        settings.scarlet.cache_duration,
        settings.scarlet.expiry,
    )


def scarlet_paper_down(requested: int, sent: int, caught_up: int, subset: int, classes: int) -> int:
    """Return SCARLET's paper bytes down: 8n + 4C·s + 16m, and (8 + 4C) for each label of catch-up.

    Parameters
    ----------
    requested
        Number of samples to predict (n).
    sent
        Number of labels sent that belong to the round before (s).
    caught_up
        Number of labels sent that are older.
    subset
        Size of the subset whose labels are in use (m; 0 in the first round): its indices and signals are
        sent.
    classes
        Number of classes (C).
    """
    return (
        requested * INDEX_BYTES
        + sent * FLOAT_BYTES * classes
        + subset * (INDEX_BYTES + SIGNAL_BYTES)
        + caught_up * (INDEX_BYTES + FLOAT_BYTES * classes)
    )


def scarlet_server(server: ServerSide, experiment: str) -> SoftLabelServer:
    """Build SCARLET's server half."""

    def paper_down(count: SentLabels) -> int:
        return scarlet_paper_down(
            count.requested, count.sent, count.caught_up, count.subset, server.num_classes
        )

    beta = server.settings.scarlet.beta
    policy = cache_policy(server.settings, server.pool)
    return SoftLabelServer(server, experiment, policy, lambda mean: enhanced_era(mean, beta), paper_down)


def scarlet_client(client: ClientSide) -> SoftLabelClient:
    """Build SCARLET's client half."""
    return SoftLabelClient(client, cache_policy(client.settings, client.pool))


SCARLET = Method("scarlet", Exchanges.LABELS, scarlet_server, scarlet_client, ("distillation", "scarlet"))
