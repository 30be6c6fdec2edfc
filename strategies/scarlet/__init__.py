"""SCARLET: soft-label caching and sharpening for communication-efficient federated distillation.

Azuma et al., IEEE TMC 2026, arXiv 2504.19602. Clients share class probabilities on public samples,
never weights, so each may run another network. A round is one message and one reply:

- ``cache.py``: labels are reused for D rounds; which ones, server and clients derive alike;
- ``server.py``: ask only for what is not fresh, average the predictions, sharpen (``era.py``);
- ``acknowledgements.py``: send each client only the labels it does not hold yet;
- ``client.py``: distil on the last subset's labels → train → predict → evaluate.
"""

from data import PublicPool
from protocol.ledger import scarlet_paper_down
from protocol.settings import RunSettings
from strategies.method import ClientSide, ServerSide
from strategies.scarlet.cache import CachePolicy
from strategies.scarlet.client import SoftLabelClient
from strategies.scarlet.distillation import distillation_loss
from strategies.scarlet.era import enhanced_era
from strategies.scarlet.server import SentLabels, SoftLabelServer

__all__ = ["distillation_loss", "enhanced_era", "scarlet_client", "scarlet_server"]


def cache_policy(settings: RunSettings, pool: PublicPool) -> CachePolicy:
    """Return SCARLET's cache as the settings define it, for a pool."""
    return CachePolicy(
        settings.seed,
        len(pool),
        settings.public.subset_size,
        settings.scarlet.cache_duration,
        settings.scarlet.expiry,
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
