"""Checkpoints: the model, the method's state and the round.

A crash while one is written leaves the one before.
Random generators need no saving: each is derived from (seed, purpose, round, client).
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from models import load_weights, save_weights
from protocol.errors import ResumeError
from protocol.files import sync_folder
from protocol.formats import FileKind, checked, checked_metadata, stamped, stamped_metadata
from server_app.rounds import RoundOutcome
from strategies.method import MethodState, ServerMethod

_NAME = re.compile(r"round-(\d{6})")
_KEPT = 2
_FACTS, _MODEL, _ARRAYS = "state.json", "model.safetensors", "strategy.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The server's state after a round."""

    round: int
    weights: dict[str, Tensor]
    state: MethodState


class CheckpointStore:
    """The folder ``checkpoint/``: one folder a round, the last two kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, round: int, method: ServerMethod) -> None:
        """Write a round's checkpoint under a temporary name, then rename it."""
        self.folder.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".unfinished-"))
        state = method.state()
        save_weights(temporary / _MODEL, method.weights(), {})
        arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
        save_file(arrays, temporary / _ARRAYS, stamped_metadata(FileKind.CHECKPOINT, {}))
        facts = stamped(FileKind.CHECKPOINT, {"round": round, "method": state.facts})
        (temporary / _FACTS).write_text(json.dumps(facts))
        for file in temporary.iterdir():
            _sync_file(file)
        sync_folder(temporary)
        final = self.folder / f"round-{round:06d}"
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync_folder(self.folder)
        self._prune()

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that can be read, or None if there is none.

        Raises
        ------
        ResumeError
            If there are checkpoints, but none can be read.
        FormatError
            If the newest that can be read is of a newer version: an older one is not taken in its place.
        """
        faults = []
        for round in self._rounds():
            path = self._path(round)
            try:
                return _load(path)
            except (OSError, ValueError, KeyError, SafetensorError, ResumeError) as error:
                faults.append(f"{path}: {error}")
        if faults:
            raise ResumeError("no checkpoint can be read: " + "; ".join(faults))
        return None

    def _path(self, round: int) -> Path:
        return self.folder / f"round-{round:06d}"

    def _rounds(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _prune(self) -> None:
        for round in self._rounds()[_KEPT:]:
            shutil.rmtree(self._path(round))
        for leftover in self.folder.glob(".unfinished-*"):
            shutil.rmtree(leftover)


class CheckpointHook:
    """Writes a checkpoint after each round."""

    def __init__(self, store: CheckpointStore, method: ServerMethod) -> None:
        self._store = store
        self._method = method

    def after_round(self, outcome: RoundOutcome) -> None:
        """Write the checkpoint; the final exchange changes nothing on the server."""
        if not outcome.final:
            self._store.save(outcome.round, self._method)


def _load(path: Path) -> Checkpoint:
    facts = checked(FileKind.CHECKPOINT, json.loads((path / _FACTS).read_text()), path / _FACTS)
    weights, _ = load_weights(path / _MODEL)
    with safe_open(path / _ARRAYS, framework="numpy") as file:
        checked_metadata(FileKind.CHECKPOINT, file.metadata() or {}, path / _ARRAYS)
        arrays: dict[str, NDArray[np.generic]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Checkpoint(facts["round"], weights, MethodState(arrays, facts["method"]))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
