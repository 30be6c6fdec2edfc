"""A witness of what clients learn from."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import server_app.run
import strategies.soft_labels.client
from protocol.encodings import decode_labels
from strategies.method import ServerMethod, ServerSide


class Witness:
    """Compares every label that a client distils on with the server's label in use at that moment.

    Nodes of the in-process grid work as soon as a message is sent, so the server's labels are still
    those that the message speaks of.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.compared = 0
        self.wrong: list[str] = []
        self._build_server = server_app.run.server_method
        self._distil = strategies.soft_labels.client.distil
        patch.setattr(server_app.run, "server_method", self._watch_server)
        patch.setattr(strategies.soft_labels.client, "distil", self._watch_client)

    def _watch_server(self, side: ServerSide, experiment: str) -> ServerMethod:
        self.server, self._encoding = self._build_server(side, experiment), side.settings.distillation.labels
        return self.server

    def _watch_client(
        self, model: Any, pool: Any, indices: NDArray[np.int64], labels: Tensor, *others: Any
    ) -> None:
        state = self.server.state()
        used = dict(zip(state.arrays["in-use.indices"], state.arrays["in-use.versions"], strict=True))
        current = decode_labels(state.arrays["cache.rows"][indices], labels.shape[1], self._encoding)
        for index, own, servers in zip(indices, labels, current, strict=True):
            if used.get(index) != state.arrays["cache.versions"][index] or not torch.equal(own, servers):
                self.wrong.append(f"round {state.facts['round'] + 1}: sample {index}")
        self.compared += len(indices)
        self._distil(model, pool, indices, labels, *others)
