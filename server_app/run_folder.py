"""The folder of a run: what it holds, and how a stopped run is found again."""

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from protocol.errors import ResumeError
from protocol.files import write_atomically
from protocol.settings import RunSettings
from protocol.values import split_source

FREE_TO_CHANGE = frozenset(
    {
        "device",
        "early-stopping.metric",
        "early-stopping.patience",
        "min-nodes",
        "min-replies",
        "num-rounds",
        "output-dir",
        "resume",
        "round-timeout",
        "wait-for-nodes",
    }
)
"""Settings that may differ when a run is resumed; any other would make it another run."""


class RunFolder:
    """``<output-dir>/<time>-<strategy>-<data>-<id>/``; its name is the experiment's id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rounds_file = path / "rounds.jsonl"
        self.settings_file = path / "settings.json"
        self.data_file = path / "data.json"
        self.summary_file = path / "summary.txt"
        self.report_file = path / "report.html"
        self.checkpoints = path / "checkpoint"
        self.clients = path / "clients"
        self.models = path / "models"

    @property
    def experiment(self) -> str:
        """The experiment's id."""
        return self.path.name

    @classmethod
    def create(cls, settings: RunSettings) -> Self:
        """Make a new run folder and write the settings into it."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        method = settings.strategy.rpartition(":")[2].lower()  # of a reference the attribute
        name = f"{stamp}-{method}-{_short(settings.data.source)}-{secrets.token_hex(2)}"
        folder = cls(settings.output_path / name)
        folder.path.mkdir(parents=True)
        folder.write_settings(settings)
        folder.rounds_file.touch()
        return folder

    @classmethod
    def open(cls, settings: RunSettings) -> Self:
        """Return the folder to run in: a new one, or the one that ``resume`` asks for.

        Raises
        ------
        ResumeError
            If the run to resume does not exist, or was run with other settings.
        """
        if settings.resume == "":
            return cls.create(settings)
        if settings.resume == "auto":
            return cls._newest_alike(settings) or cls.create(settings)
        folder = cls(Path(settings.resume).expanduser())
        if not folder.settings_file.is_file():
            raise ResumeError(f'resume = "{settings.resume}": there is no run folder at this path')
        if different := folder.differences(settings):
            raise ResumeError(
                f'resume = "{settings.resume}": the run has other settings: ' + "; ".join(different)
            )
        return folder

    def write_settings(self, settings: RunSettings) -> None:
        """Write the settings the run goes by from now on."""
        text = json.dumps(settings.flat(), indent=2)
        write_atomically(self.settings_file, text.encode())

    def write_data_facts(self, facts: Mapping[str, Any]) -> None:
        """Write what a reader must know of the data: classes, pool, how inputs are scaled."""
        write_atomically(self.data_file, json.dumps(facts, indent=2).encode())

    def differences(self, settings: RunSettings) -> list[str]:
        """Say which settings differ from the run's own, among those that may not change."""
        old, new = json.loads(self.settings_file.read_text()), settings.flat()
        keys = sorted((old.keys() | new.keys()) - FREE_TO_CHANGE)
        return [
            f"{key} was {json.dumps(old.get(key))}, is {json.dumps(new.get(key))}"
            for key in keys
            if old.get(key) != new.get(key)
        ]

    def has_more(self, settings: RunSettings) -> bool:
        """Tell whether the run did not come to its end, or is now asked for more rounds."""
        finished = self.models.is_dir()
        planned: int = json.loads(self.settings_file.read_text())["num-rounds"]
        return not finished or settings.num_rounds > planned

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from running in the same folder.

        Raises
        ------
        ResumeError
            If another process has it.
        """
        with (self.path / "run.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResumeError(f"{self.path}: this run is going on in another process") from error
            yield

    def rounds(self, until: int | None = None) -> list[dict[str, Any]]:
        """Return the lines of ``rounds.jsonl``; a last line that a crash cut off is left out."""
        lines = []
        for text in self.rounds_file.read_text().splitlines() if self.rounds_file.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return [line for line in lines if until is None or line["round"] <= until]

    def had_final_exchange(self) -> bool:
        """Tell whether the exchange after the last round is done."""
        return any(line.get("final", False) for line in self.rounds()[-1:])

    def append_round(self, line: dict[str, Any]) -> None:
        """Add a round's line."""
        with self.rounds_file.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def forget_rounds_after(self, round: int) -> None:
        """Drop the lines of rounds that no checkpoint stands for."""
        lines = [json.dumps(line) + "\n" for line in self.rounds(until=round)]
        write_atomically(self.rounds_file, "".join(lines).encode())

    @classmethod
    def _newest_alike(cls, settings: RunSettings) -> Self | None:
        """Find the newest unfinished run with these settings, if there is one."""
        paths = sorted(settings.output_path.glob("*/settings.json"), reverse=True)
        for folder in (cls(path.parent) for path in paths):
            if folder.checkpoints.is_dir() and not folder.differences(settings) and folder.has_more(settings):
                return folder
        return None


def _short(source: str) -> str:
    """Return what of a data set's name can be part of a folder's."""
    place, _ = split_source(source)
    path = Path(place)
    names = [path.parent.name, path.stem] if path.suffix else [path.name]  # …/fashion-mnist/train.parquet
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(filter(None, names))).strip("-")[:40] or "data"
