"""A method: FedProx (Li et al. 2020), FedAvg with a term that keeps clients near the global model.

strategy = "custom.fedprox:FEDPROX"
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from learning.local import LossOfBatch, loss_of_batch
from protocol.tables import Table
from protocol.values import NonNegative
from strategies.method import Exchanges, Method
from strategies.weights.fedavg import FedAvgClient, FedAvgServer


class FedProxSettings(Table):
    """The settings under ``[tool.flwr.app.config.custom.fedprox]``."""

    place: ClassVar[str] = "custom.fedprox"
    mu: NonNegative = Field(0.01, description="weight μ of the squared distance from the global model")


class FedProxClient(FedAvgClient):
    """FedAvg's client half with another loss: F(w) + μ/2 · ‖w − wᵗ‖² (equation 2)."""

    def loss(self, received: nn.Module) -> LossOfBatch:
        """Return the loss of a batch, given the global model wᵗ before it is trained."""
        mu = self.client.settings.of(FedProxSettings).mu
        start = [parameter.detach().clone() for parameter in received.parameters()]
        plain = loss_of_batch(self.client.settings)

        def proximal(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            loss = plain(model, inputs, targets)
            for parameter, before in zip(model.parameters(), start, strict=True):
                loss = loss + mu / 2 * (parameter - before).square().sum()
            return loss

        return proximal


FEDPROX = Method("FedProx", Exchanges.WEIGHTS, FedAvgServer, FedProxClient)
