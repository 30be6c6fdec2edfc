"""A client's saved state between rounds of one experiment: its model, and additions of its method."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from models import load_weights, save_weights
from protocol.formats import FileKind

_FILE = re.compile(r"round-(\d{6})\.safetensors")
_KEPT = 2
_MODEL = "model"
_WEIGHTS = "model."


@dataclass(frozen=True)
class ClientState:
    """The state of a client after a round: its model's weights, and additions of its method."""

    round: int
    model: str
    """The network's name."""
    weights: Mapping[str, Tensor]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


class StateStore:
    """A client's states on disk, one safetensors file per round, each written atomically.

    The last two are kept. If a server that was killed and resumed repeats the message of round t, the client
    thus starts again from the state after round t − 1.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before(self, round: int) -> list[ClientState]:
        """Return the states kept from before a round, newest first."""
        return [self._load(kept) for kept in self._rounds() if kept < round]

    def newest(self) -> ClientState | None:
        """Return the newest state, if any."""
        return next((self._load(kept) for kept in self._rounds()), None)

    def save(self, state: ClientState) -> None:
        """Write the state after a round, then delete states that are not needed any more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = {_WEIGHTS + name: tensor for name, tensor in state.weights.items()}
        facts = {**state.facts, _MODEL: state.model}
        save_weights(self._file(state.round), {**weights, **state.extra}, facts, FileKind.CLIENT_STATE)
        for kept in self._rounds():
            if kept > state.round:
                self._file(kept).unlink()
        for kept in self._rounds()[_KEPT:]:
            self._file(kept).unlink()

    def _load(self, round: int) -> ClientState:
        tensors, facts = load_weights(self._file(round), FileKind.CLIENT_STATE)
        weights = {
            name.removeprefix(_WEIGHTS): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(_WEIGHTS)
        }
        return ClientState(round, facts.pop(_MODEL, ""), weights, tensors, facts)

    def _file(self, round: int) -> Path:
        return self.folder / f"round-{round:06d}.safetensors"

    def _rounds(self) -> list[int]:
        """Return the rounds kept, newest first."""
        if not self.folder.is_dir():
            return []
        found = (_FILE.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)
