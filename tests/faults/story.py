"""A run into which faults are injected: wait for rounds, see who notices what and when, resume."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server_app.checkpoint import CheckpointStore
from tests.support.process_table import processor_seconds
from tests.support.sites import Sites, await_result

Line = Mapping[str, Any]
_AT_WORK_SECONDS = 0.15
"""Processor time after which a ClientApp has its message and has begun with it."""
FIGURES = "MOTLEY_FAULT_FIGURES"
"""Environment variable: a file to which measured figures are added, a JSON object a line."""


@dataclass
class Story:
    """A run, from its start to its end, however often it is resumed.

    Parameters
    ----------
    federation
        Where it runs.
    settings
        Its run-config.
    """

    federation: Sites
    settings: Mapping[str, str | int | float]
    run_ids: list[str] = field(default_factory=list)
    others: set[Path] = field(default_factory=set)

    def begin(self, **changes: str) -> None:
        """Start the run, or go on with it: one command."""
        if not self.run_ids:
            self.others = set(self.federation.run_folders())
        written = {**self.settings, **changes}
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in written.items())
        self.run_ids.append(self.federation.start_run(config))

    # --- what has happened ---------------------------------------------------------------------

    def lines(self) -> list[Line]:
        """Return the rounds so far; a line that is just being written is left out."""
        file = next((folder / "rounds.jsonl" for folder in self._folders()), None)
        text = file.read_text() if file is not None and file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def done(self) -> int:
        """Return the number of rounds that are done."""
        return len(self.lines())

    def folder(self) -> Path:
        """Return the run's folder."""
        (found,) = self._folders()
        return found

    def log(self) -> str:
        """Return what all runs of it have logged, without colours."""
        return re.sub(r"\x1b\[\d+m", "", "".join(map(self.federation.run_log, self.run_ids)))

    def checkpoint(self) -> int:
        """Return the round of the newest checkpoint."""
        newest = CheckpointStore(self.folder() / "checkpoint").newest()
        return newest.round if newest else 0

    def at_work(self, client: str) -> int | None:
        """Return the process of a client's ClientApp, if it is in the middle of its work."""
        found = self.federation.client_app(client)
        return found if found is not None and processor_seconds(found) > _AT_WORK_SECONDS else None

    # --- waiting -------------------------------------------------------------------------------

    def reaches(self, round: int, seconds: float = 150) -> None:
        """Wait until a round is done."""
        await_result(
            lambda: self._alive() and self.done() >= round, seconds, f"round {round}; {self._last()}"
        )

    def fails(self, client: str, since: int, seconds: float = 150) -> str:
        """Wait until a round after ``since`` is done in which a client failed; return the reason."""

        def reasons() -> list[str]:
            return [
                failure["reason"]
                for line in self.lines()[since:]
                for failure in line["nodes"]["failed"]
                if self._alive() and failure["client"] == client
            ]

        return await_result(reasons, seconds, f"a failure of {client} after round {since}; {self._last()}")[0]

    def is_whole(self, clients: int, seconds: float = 150) -> None:
        """Wait until all clients take part in a round from now on."""
        since = self.done()

        def whole() -> bool:
            return any(line["nodes"]["answered"] == clients for line in self.lines()[since:])

        await_result(lambda: self._alive() and whole(), seconds, f"{clients} clients; {self._last()}")

    # --- measuring -----------------------------------------------------------------------------

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Keep the seconds that something took."""
        began = time.monotonic()
        yield
        self.keep(name, round(time.monotonic() - began, 1))

    def keep(self, name: str, figure: float | str) -> None:
        """Keep a figure."""
        if path := os.environ.get(FIGURES):
            with Path(path).open("a") as file:
                file.write(json.dumps({"strategy": self.settings["strategy"], name: figure}) + "\n")

    # --- parts ---------------------------------------------------------------------------------

    def _alive(self) -> bool:
        """Make sure that the run has not ended, so that nobody waits for a dead one."""
        if self.done() < int(self.settings["num-rounds"]):
            assert not any((folder / "summary.txt").exists() for folder in self._folders()), self.log()[
                -4000:
            ]
        return True

    def _folders(self) -> list[Path]:
        """Return the run's folder, as soon as there is one."""
        return [folder for folder in self.federation.run_folders() if folder not in self.others]

    def _last(self) -> str:
        lines = self.lines()
        return f"the last line was {lines[-1]}" if lines else "there is no line yet"
