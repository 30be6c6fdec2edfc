"""A witness of what clients learn from."""

from dataclasses import replace

import pytest
import torch

import server_app.run
from learning.learner import Learner
from protocol.settings import RunSettings
from strategies.method import Method, ServerMethod
from strategies.sides import ServerSide
from strategies.soft_labels.cache import LabelCache, LabelsInUse
from strategies.soft_labels.client import SoftLabelClient
from tests.support.labels import decode_labels


class Witness:
    """Compares every label that a client distils on with the server's label in use at that moment.

    Nodes of the in-process grid work as soon as a message is sent, so the server's labels are still
    those that the message speaks of.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.compared = 0
        self.wrong: list[str] = []
        self._compose = server_app.run.compose
        distil = SoftLabelClient._distil
        patch.setattr(server_app.run, "compose", self._watch_server)
        witness = self

        def watched(
            client: SoftLabelClient, learner: Learner, cache: LabelCache, in_use: LabelsInUse, round: int
        ) -> int:
            witness.compare(client, cache, in_use)
            return distil(client, learner, cache, in_use, round)

        patch.setattr(SoftLabelClient, "_distil", watched)

    def _watch_server(self, settings: RunSettings, simulation: bool) -> Method:
        method = self._compose(settings, simulation)

        def build(side: ServerSide, experiment: str) -> ServerMethod:
            self.server, self._encoding = method.server(side, experiment), settings.distillation.labels
            return self.server

        return replace(method, server=build)

    def compare(self, client: SoftLabelClient, cache: LabelCache, in_use: LabelsInUse) -> None:
        """Compare the labels that a client is about to learn from with the server's."""
        indices = in_use.indices[cache.holds(in_use)]
        labels = decode_labels(cache.rows[indices], client._classes, self._encoding)
        state = self.server.state()
        used = dict(zip(state.arrays["in-use.indices"], state.arrays["in-use.versions"], strict=True))
        current = decode_labels(state.arrays["cache.rows"][indices], labels.shape[1], self._encoding)
        for index, own, servers in zip(indices, labels, current, strict=True):
            if used.get(index) != state.arrays["cache.versions"][index] or not torch.equal(own, servers):
                self.wrong.append(f"round {state.facts['round'] + 1}: sample {index}")
        self.compared += len(indices)
