"""A node: its settings, its data, its model's name and its saved state."""

import logging
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from client_app.capability import Budgets, Carried, choose, measure, pinned
from data import ClientData, PublicPool, load_client_data, load_own_data, load_shared
from learning.precision import usable_precision
from models.network import Estimator
from models.registry import model_of
from protocol.device import find_place
from protocol.digests import code_digest
from protocol.errors import SettingsError
from protocol.messages import HelloReply, experiment_of
from protocol.settings import NodeSettings, RunSettings
from protocol.values import numbers, split_names
from strategies import compose
from strategies.composition import require_own_weights
from strategies.levels import assign_levels
from strategies.method import ClientMethod, Exchanges
from strategies.sides import ClientSide
from strategies.state import StateStore
from strategies.trial import try_model

log = logging.getLogger("flwr")

_OWN_MODEL = "model (node-config)"
STATE_FOLDER = Path("~/motley/state")
"""The default of ``state-dir`` on a real node."""


class Node:
    """One node of the federation, built for each message."""

    def __init__(self, context: Context) -> None:
        run = RunSettings.parse(context.run_config)
        self.settings = NodeSettings.parse(context.node_config)
        place = find_place(self.settings.device or run.device, self.settings.gpu_memory)
        self.device = place.device
        precision, slower = usable_precision(run.precision, self.device)
        changes: dict[str, str] = {"precision": precision} if slower else {}
        if self.settings.model_path:
            changes["pretrained"] = self.settings.model_path
        self.run = run.model_copy(update=changes)
        self.kind = compose(run, self.settings.simulated)
        self.notes = [note for note in (place.note, slower) if note]
        for note in self.notes:
            log.warning("%s", note)
        if threads := self.settings.threads or (1 if self.settings.simulated else None):
            torch.set_num_threads(threads)

    def hello(self, content: RecordDict) -> RecordDict:
        """Answer a hello: the client's name, its model, level and digests."""
        setting = _OWN_MODEL if self.settings.model else "model"
        try_model(self.model_name, self.run, self.device, setting, self.settings.public_path)
        digests = self.method(content).state_digests()
        carried = self._carried(experiment_of(content))
        return HelloReply(
            self.settings.name,
            self.settings.simulated,
            self.model_name,
            self._pool().digest,
            code_digest(),
            b"".join(digests),
            carried.level if carried else None,
            carried.reason if carried else None,
            "; ".join(self.notes) or None,
        ).to_record()

    def method(self, content: RecordDict) -> ClientMethod:
        """Build the client half of the run's method, with this node's saved state of the experiment."""
        experiment = experiment_of(content)
        carried = self._carried(experiment)
        side = ClientSide(
            self.run,
            self.settings.name,
            self.model_name,
            self._data(),
            self._pool(),
            StateStore(self._state_folder(experiment)),
            self.device,
            carried.level if carried else None,
        )
        return self.kind.client(side)

    @property
    def model_name(self) -> str:
        """The network or estimator that this node trains: its own, one of ``models``, or the run's."""
        assigned = split_names(self.run.models)
        name = self.run.model
        if self.settings.model is not None:
            name = self.settings.model
            own_place = "" if self.settings.model_path else self.run.pretrained
            require_own_weights(own_place, model_of(name, _OWN_MODEL), _OWN_MODEL)
        elif assigned and self.settings.partition_id is not None:
            name = assigned[self.settings.partition_id % len(assigned)]
        if self.kind.exchanges.averages and name != self.run.model:
            raise SettingsError(
                f"model = {name!r} (node-config): strategy {self.kind.name} averages weights, so every "
                f"client must run {self.run.model!r}"
            )
        return name

    def _carried(self, experiment: str) -> Carried | None:
        """Return the level that this node trains, or None if its network has none.

        Methods that average whole networks treat an elastic network like any other.
        """
        run, node = self.run, self.settings
        model = model_of(self.model_name)
        if self.kind.exchanges is Exchanges.WEIGHTS or isinstance(model, Estimator) or not model.is_elastic:
            return None
        if isinstance(node.level, int):
            levels = len(numbers(run.levels.shares))
            if node.level > levels:
                raise SettingsError(f"level = {node.level} (node-config): there are levels 1 to {levels}")
            return Carried(node.level, "set in its node-config")
        if node.level is None and node.simulated:
            part, parts = partition_of(run, node)
            level = assign_levels(numbers(run.levels.shares), parts, run.seed)[part]
            return Carried(level, f'assigned by levels.shares = "{run.levels.shares}"')
        question = {
            "model": self.model_name,
            "levels": run.levels.model_dump(),
            "train": run.train.model_dump(),
            "precision": run.precision,
            "budgets": [node.memory_budget, node.seconds_per_round_budget, node.gpu_memory],
            "device": str(self.device),
        }
        return pinned(self._state_folder(experiment) / "level.json", question, self._measured)

    def _measured(self) -> Carried:
        data = self._data()
        budgets = Budgets.of(self.settings, self.device)  # before anything that is measured takes memory
        return choose(measure(self.run, self.model_name, data, self.device), budgets)

    def _pool(self) -> PublicPool:
        return load_shared(self.run, self.settings.public_path).pool

    def _data(self) -> ClientData:
        return data_of(self.run, self.settings).to(self.device)

    def _state_folder(self, experiment: str) -> Path:
        node = self.settings
        if node.simulated and not node.state_dir:
            return self._runs() / experiment / "clients" / node.name
        root = Path(node.state_dir) if node.state_dir else STATE_FOLDER
        return root.expanduser() / experiment / node.name

    def _runs(self) -> Path:
        """Return the parent of the run's folder, which may be anywhere if it is resumed by its path."""
        resume = self.run.resume
        return self.run.output_path if resume in ("", "auto") else Path(resume).expanduser().parent


@lru_cache(maxsize=256)
def data_of(run: RunSettings, node: NodeSettings) -> ClientData:
    """Load a node's data: its own, or its part of what the run splits.

    Raises
    ------
    SettingsError
        If the node's settings do not say which part.
    DataError
        If the data cannot be used.
    """
    if node.data_path:
        return load_own_data(run, node.data_path, node.public_path, node.name)
    return load_client_data(run, *partition_of(run, node), node.public_path)


def partition_of(run: RunSettings, node: NodeSettings) -> tuple[int, int]:
    """Return the index of a node's part of the run's data, and the number of parts.

    Raises
    ------
    SettingsError
        If the node's settings do not have them.
    """
    if node.partition_id is None or node.num_partitions is None:
        raise SettingsError(
            f'partition-id (node-config) is missing: data.source = "{run.data.source}" is split over '
            "clients, so each node must say which part is its own, and of how many (num-partitions); where "
            'each holds its own data, the run says data.source = "nodes" and the node its data-path'
        )
    return node.partition_id, node.num_partitions
