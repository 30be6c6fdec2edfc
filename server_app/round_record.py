"""The record of a round: what a line of ``rounds.jsonl`` holds, typed.

A value that was not set has no key in the line; so the line of a run without submodels has no ``levels``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from learning.grading import ExitGrades, Grades
from learning.metrics import Metric, figures
from protocol.errors import FormatError
from protocol.formats import FileKind, checked, stamped
from protocol.ledger import Traffic
from protocol.messages import Evaluation


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Failure(_Part):
    """A client whose reply failed."""

    client: str
    reason: str


class Nodes(_Part):
    """How many clients were asked and answered, and who failed."""

    asked: int
    answered: int
    failed: tuple[Failure, ...]


class Figures(_Part):
    """How a model does, in the mean; a figure that is not known is None."""

    accuracy: float | None
    loss: float | None
    metric: float | None = None
    """The run's ``data.metric``."""

    @classmethod
    def of(cls, evaluation: Evaluation | None, metric: Metric | None) -> Self:
        """Return the figures of an evaluation, if there was one; the metric is set if the run has one."""
        return cls(**figures(evaluation, metric))


class LevelScore(_Part):
    """How the server's submodel of a level does; a method may add details."""

    model_config = ConfigDict(extra="allow")

    level: int
    """From 1."""
    accuracy: float
    """Of the last exit, as ``loss`` and ``metric`` are."""
    loss: float
    metric: float | None = None
    examples: int
    ensemble: float
    """Accuracy of the mean of the exits' probabilities."""
    grades: Grades | None = None
    """Of the last exit; None unless classes are ordered."""


class LevelClients(_Part):
    """How the clients of a level do, in the mean."""

    level: int
    """From 1."""
    clients: int
    """How many of them were evaluated."""
    accuracy: float
    loss: float
    metric: float | None = None

    @classmethod
    def of(cls, level: int, clients: int, evaluation: Evaluation, metric: Metric | None) -> Self:
        """Return the entry of a level.

        Parameters
        ----------
        level
            From 1.
        clients
            How many of them were evaluated.
        evaluation
            Their mean.
        metric
            The run's ``data.metric``; without one the entry has no key for it.
        """
        values: dict[str, Any] = figures(evaluation, metric)
        return cls(level=level, clients=clients, **values)


class EarlyExit(_Part):
    """What is won and lost if each sample leaves the network at the first exit that is sure enough."""

    threshold: float
    """The probability of its class from which an exit is sure."""
    accuracy: float
    flops: float
    """MACs a sample, in the mean."""


class RoundRecord(_Part):
    """A round of a run, as a line of ``rounds.jsonl`` tells it.

    Fields that a method adds and that are not named here are kept as they are (`details`).
    """

    model_config = ConfigDict(extra="allow")

    round: int
    """From 1."""
    nodes: Nodes
    seconds: Mapping[str, float]
    """By stage: ``send``, ``wait``, ``aggregate``, ``evaluate``."""
    bytes: Traffic
    server: Figures
    clients: Figures
    """Weighted by the clients' test samples."""
    levels: tuple[LevelScore, ...] = ()
    """Of the server's submodels; empty if there are none, or none were scored in this round."""
    exits: tuple[float, ...] = ()
    """Accuracy of each exit of the whole network, the shallowest first."""
    ensemble: float | None = None
    """Accuracy of the whole network by the mean of its exits' probabilities."""
    early_exit: tuple[EarlyExit, ...] = ()
    """By threshold, of the whole network."""
    grades: ExitGrades | None = None
    """Of the whole network; None unless classes are ordered."""
    clients_by_level: tuple[LevelClients, ...] = ()
    final: bool = False
    """Whether it is the exchange after the last round."""

    @property
    def details(self) -> Mapping[str, Any]:
        """What the method added that is not named here: values as JSON has them, by name."""
        return self.model_extra or {}

    @classmethod
    def from_line(cls, line: object, where: Path | str) -> Self:
        """Read a line of ``rounds.jsonl``.

        Parameters
        ----------
        line
            The line as `json.loads` returns it.
        where
            The file and the line's number, for messages.

        Raises
        ------
        FormatError
            If it is of a newer version, or no record of a round; the error names the first wrong field.
        """
        try:
            return cls.model_validate_json(json.dumps(checked(FileKind.ROUND, line, where), allow_nan=False))
        except ValidationError as error:
            raise FormatError(f"{where}: no record of a round: {_first_fault(error)}") from None
        except ValueError as error:  # no JSON object, or a number that JSON does not have
            raise FormatError(f"{where}: no record of a round: {error}") from None

    def line(self) -> dict[str, Any]:
        """Return the record as a line of ``rounds.jsonl`` holds it, with the version of its format."""
        return stamped(FileKind.ROUND, self.model_dump(mode="json", exclude_unset=True))

    def with_details(self, details: Mapping[str, Any]) -> Self:
        """Return the record with what a method adds to it.

        Parameters
        ----------
        details
            Scalars, lists and mappings by name, as JSON has them. Those of submodels (``levels``, ``exits``,
            ``ensemble``, ``early_exit``, ``grades``) must be as the fields of those names here.

        Raises
        ------
        FormatError
            If a name is that of something the server records itself, or a value cannot be written as JSON, or
            is not as the field of its name.
        """
        where = f"round {self.round}: what the method adds to its record"
        line = self.line()
        if taken := sorted(details.keys() & (line.keys() | _OWN)):
            raise FormatError(f"{where}: {taken[0]!r} is recorded by the server itself: give it another name")
        try:
            text = json.dumps({**line, **details}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{where}: cannot be written as JSON: {error}") from error
        return self.from_line(json.loads(text), where)


_OWN = frozenset({"clients_by_level", "final"})
"""Fields of the server's own that not every record has."""


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
