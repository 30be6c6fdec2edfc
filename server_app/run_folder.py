"""The folder of a run: what it holds, and how a stopped run is found again."""

import fcntl
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from protocol.errors import FormatError, ResumeError
from protocol.files import write_atomically
from protocol.formats import FileKind, checked, stamped
from protocol.settings import RunSettings
from protocol.values import split_source
from server_app.round_record import RoundRecord

log = logging.getLogger("flwr")

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
            return cls._newest_unfinished(settings) or cls.create(settings)
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
        content = stamped(FileKind.SETTINGS, settings.flat())
        write_atomically(self.settings_file, json.dumps(content, indent=2).encode())

    def kept_settings(self) -> dict[str, Any]:
        """Return the settings the run went by, as `RunSettings.parse` reads them.

        One that did not exist yet when the run was made has its default.

        Raises
        ------
        ResumeError
            If they are missing or damaged.
        FormatError
            If they are of a newer version.
        """
        return RunSettings().flat() | self._read(FileKind.SETTINGS, self.settings_file)

    def write_data_facts(self, facts: Mapping[str, Any]) -> None:
        """Write what a reader must know of the data: classes, pool, normalisation statistics.

        Raises
        ------
        ResumeError
            If facts are here already, but damaged.
        FormatError
            If those that are here are of a newer version.
        """
        if self.data_file.exists():
            self.data_facts()  # refuses to replace those of a newer version
        content = stamped(FileKind.DATA_FACTS, facts)
        write_atomically(self.data_file, json.dumps(content, indent=2).encode())

    def data_facts(self) -> dict[str, Any]:
        """Return what `write_data_facts` wrote.

        Raises
        ------
        ResumeError
            If it is missing or damaged.
        FormatError
            If it is of a newer version.
        """
        return self._read(FileKind.DATA_FACTS, self.data_file)

    def differences(self, settings: RunSettings) -> list[str]:
        """Return how settings differ from the run's own, a line for each that may not change."""
        old, new = self.kept_settings(), settings.flat()
        keys = sorted((old.keys() | new.keys()) - FREE_TO_CHANGE)
        return [
            f"{key} was {_shown(old, key)}, is {_shown(new, key)}"
            for key in keys
            if old.get(key) != new.get(key)
        ]

    def has_more(self, settings: RunSettings) -> bool:
        """Tell whether rounds are left: the run is not finished, or is now given more rounds."""
        finished = self.models.is_dir()
        planned: int = self.kept_settings()["num-rounds"]
        return not finished or settings.num_rounds > planned

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from running in the same folder.

        Raises
        ------
        ResumeError
            If another process runs in it.
        """
        with (self.path / "run.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResumeError(f"{self.path}: this run is already running in another process") from error
            yield

    def records(self, until: int | None = None) -> list[RoundRecord]:
        """Return the records in ``rounds.jsonl``; a last line that a crash cut off is left out.

        Parameters
        ----------
        until
            The last round to return; None: all.

        Raises
        ------
        FormatError
            If a line is of a newer version, or no record of a round.
        """
        records = []
        texts = self.rounds_file.read_text().splitlines() if self.rounds_file.exists() else []
        for number, text in enumerate(texts, start=1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            records.append(RoundRecord.from_line(line, f"{self.rounds_file}, line {number}"))
        return [record for record in records if until is None or record.round <= until]

    def rounds(self) -> list[dict[str, Any]]:
        """Return `records` as lines of ``rounds.jsonl`` hold them, for notebooks and benchmarks."""
        return [record.line() for record in self.records()]

    def had_final_exchange(self) -> bool:
        """Tell whether the exchange after the last round is done."""
        return any(record.final for record in self.records()[-1:])

    def append_round(self, record: RoundRecord) -> None:
        """Add the record of a round."""
        with self.rounds_file.open("a") as file:
            file.write(_as_text(record))
            file.flush()
            os.fsync(file.fileno())

    def forget_rounds_after(self, round: int) -> None:
        """Drop the records of later rounds, for which there is no checkpoint."""
        texts = [_as_text(record) for record in self.records(until=round)]
        write_atomically(self.rounds_file, "".join(texts).encode())

    def _read(self, kind: FileKind, file: Path) -> dict[str, Any]:
        """Read a JSON file of this folder."""
        try:
            return checked(kind, json.loads(file.read_text()), file)
        except (OSError, ValueError) as error:
            raise ResumeError(f"{file}: cannot be read: {error}") from error

    @classmethod
    def _newest_unfinished(cls, settings: RunSettings) -> Self | None:
        """Find the newest unfinished run with these settings, if there is one."""
        paths = sorted(settings.output_path.glob("*/settings.json"), reverse=True)
        for folder in (cls(path.parent) for path in paths if (path.parent / "checkpoint").is_dir()):
            try:
                if not folder.differences(settings) and folder.has_more(settings):
                    return folder
            except (ResumeError, FormatError) as error:  # of another run, perhaps: it must not stop this one
                log.warning('resume = "auto": left out a run that cannot be resumed: %s', error)
        return None


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not set"


def _as_text(record: RoundRecord) -> str:
    return json.dumps(record.line(), allow_nan=False) + "\n"


def _short(source: str) -> str:
    """Return a data set's name, shortened to what a folder's name may hold."""
    place, _ = split_source(source)
    path = Path(place)
    names = [path.parent.name, path.stem] if path.suffix else [path.name]  # …/fashion-mnist/train.parquet
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(filter(None, names))).strip("-")[:40] or "data"
