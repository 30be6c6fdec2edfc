"""What a node is made of: its settings, its data, its model's name, its durable state."""

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from data import ClientData, PublicPool, load_client_data, load_public_pool
from protocol.device import choose_device
from protocol.digests import code_digest
from protocol.errors import SettingsError
from protocol.messages import HelloReply, experiment_of
from protocol.settings import NodeSettings, RunSettings, split_names
from strategies import client_method
from strategies.method import ClientMethod, ClientSide
from strategies.state import StateStore

STATE_FOLDER = Path("~/motley/state")
"""Where a real node keeps its state if its node-config names no ``state-dir``."""


class Node:
    """One node of the federation, as one message finds it."""

    def __init__(self, context: Context) -> None:
        self.run = RunSettings.parse(context.run_config)
        self.settings = NodeSettings.parse(context.node_config)
        self.device = choose_device(self.settings.device or self.run.device)
        if threads := self.settings.threads or (1 if self.settings.simulated else None):
            torch.set_num_threads(threads)

    def hello(self, content: RecordDict) -> RecordDict:
        """Say who this node is and what it holds."""
        digests = self.method(content).state_digests()
        return HelloReply(
            self.settings.name,
            self.settings.simulated,
            self.model_name,
            _pool(self.run).digest,
            code_digest(),
            b"".join(digests),
        ).to_record()

    def method(self, content: RecordDict) -> ClientMethod:
        """Build the client half of the run's method, with this node's state of the experiment."""
        side = ClientSide(
            self.run,
            self.settings.name,
            self.model_name,
            _data(self.run, *self._partition()).to(self.device),
            _pool(self.run).to(self.device),
            StateStore(self._state_folder(experiment_of(content))),
            self.device,
        )
        return client_method(side)

    @property
    def model_name(self) -> str:
        """The network this node trains: its own choice, its share of ``models``, or the run's."""
        dealt_out = split_names(self.run.models)
        name: str = self.run.model
        if self.settings.model is not None:
            name = self.settings.model
        elif dealt_out and self.settings.partition_id is not None:
            name = dealt_out[self.settings.partition_id % len(dealt_out)]
        if self.run.strategy == "fedavg" and name != self.run.model:
            raise SettingsError(
                f"model = {name!r} (node-config): strategy fedavg averages weights, so every client "
                f"must run {self.run.model!r}"
            )
        return name

    def _partition(self) -> tuple[int, int]:
        node = self.settings
        if node.partition_id is None or node.num_partitions is None:
            raise SettingsError(
                f"partition-id (node-config) is missing: {self.run.data.source} is one source that is split "
                "over clients, so each node must say which part is its own, and of how many (num-partitions)"
            )
        return node.partition_id, node.num_partitions

    def _state_folder(self, experiment: str) -> Path:
        node = self.settings
        if node.simulated and not node.state_dir:
            return self._runs() / experiment / "clients" / node.name
        root = Path(node.state_dir) if node.state_dir else STATE_FOLDER
        return root.expanduser() / experiment / node.name

    def _runs(self) -> Path:
        """Where the run's folder lies: one that is resumed by its path may lie anywhere."""
        resume = self.run.resume
        return self.run.output_path if resume in ("", "auto") else Path(resume).expanduser().parent


@lru_cache(maxsize=4)
def _pool(settings: RunSettings) -> PublicPool:
    return load_public_pool(settings)


@lru_cache(maxsize=256)
def _data(settings: RunSettings, partition_id: int, num_partitions: int) -> ClientData:
    return load_client_data(settings, partition_id, num_partitions)
