"""The payloads of the messages between server and nodes, each a frozen dataclass.

Here are the payloads that all methods share; those of a single method lie beside it. Only this file knows the
keys of Flower's records. A payload is one ``ConfigRecord`` (a Flower message with it costs about 0.3 kB, an
``ArrayRecord`` three times that), and an ``ArrayRecord`` if it contains weights.
"""

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_args, get_type_hints

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict
from torch import Tensor

from protocol.errors import MessageError

HELLO = f"{MessageType.QUERY}.hello"
TRAIN = MessageType.TRAIN

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MOST_SAMPLES = 2**29
"""Bound on a client's number of samples: with weights below it sums are exact, see ``WeightedMean``."""
_LARGEST_LOSS = 1e9
MOST_ROUNDS = 999_999

_FIELDS = "fields"
_WEIGHTS = "weights"
_ROUND = "round"

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Payload:
    """A payload whose fields are scalars; fields that are ``None`` are not sent."""

    def to_record(self) -> RecordDict:
        """Write the payload as a Flower record."""
        fields = {key: value for key, value in vars(self).items() if value is not None and key != _WEIGHTS}
        record = RecordDict({_FIELDS: ConfigRecord(fields)})
        if (weights := getattr(self, _WEIGHTS, None)) is not None:
            record[_WEIGHTS] = ArrayRecord({name: Array(tensor) for name, tensor in weights.items()})
        return record

    @classmethod
    def from_record(cls, record: RecordDict) -> Self:
        """Read the payload from a Flower record.

        Raises
        ------
        MessageError
            Naming the field that is missing, unknown or of another type.
        """
        fields = _config(record)
        values: dict[str, Any] = {}
        for name, kind in _field_types(cls).items():
            if name == _WEIGHTS:
                values[name] = _weights(record)
            else:
                values[name] = _checked(cls, name, kind, fields.pop(name, None))
        if fields:
            raise MessageError(f"{cls.__name__}: unknown field {min(fields)!r}")
        return cls(**values)


@dataclass(frozen=True)
class HelloRequest(Payload):
    """The server's first message to a node: it asks for the client's name and what the node holds."""

    experiment: str


@dataclass(frozen=True)
class HelloReply(Payload):
    """A node's answer to a hello."""

    client: str
    simulated: bool
    model: str
    pool_digest: str
    code_digest: str
    state_digests: bytes
    """Digests (8 bytes each) of the soft labels in the states that the node kept, newest first."""
    level: int | None = None
    """The level of an elastic network that the node trains; None for other networks."""
    level_reason: str | None = None
    """Why the node has this level."""
    notes: str | None = None
    """What differs from the node's settings, for example a GPU that does not work; None: nothing."""

    def __post_init__(self) -> None:
        """Refuse a name that could escape a folder, as the name is part of paths."""
        if not _PLAIN_NAME.fullmatch(self.client):
            raise MessageError(f"client: {self.client!r} is not a plain name")


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on held-out samples."""

    accuracy: float
    loss: float
    examples: int
    metric: float | None = None
    """The value of the run's ``data.metric``; None without one, or if it is undefined on these samples."""


@dataclass(frozen=True)
class EvaluatedReply(Payload):
    """A reply that contains the client's evaluation, as fields of its own."""

    accuracy: float
    loss: float
    examples: int
    metric: float | None = field(default=None, kw_only=True)

    @property
    def evaluation(self) -> Evaluation:
        """The client's evaluation.

        Raises
        ------
        MessageError
            If a figure is not finite or impossible, or no sample was evaluated.
        """
        if not (math.isfinite(self.accuracy) and math.isfinite(self.loss)):
            raise MessageError(f"accuracy = {self.accuracy}, loss = {self.loss}: must be finite")
        if not 0 <= self.accuracy <= 1 or not 0 <= self.loss < _LARGEST_LOSS:
            raise MessageError(f"accuracy = {self.accuracy}, loss = {self.loss}: impossible")
        if not 1 <= self.examples < MOST_SAMPLES:
            raise MessageError(f"examples = {self.examples}: must be from 1 to {MOST_SAMPLES - 1}")
        if self.metric is not None and not math.isfinite(self.metric):
            raise MessageError(f"metric = {self.metric}: must be finite")
        return Evaluation(self.accuracy, self.loss, self.examples, self.metric)


@dataclass(frozen=True)
class RoundRequest(Payload):
    """The server's message to a client in a round."""

    experiment: str
    round: int

    def __post_init__(self) -> None:
        """Refuse an impossible number of a round."""
        if not 1 <= self.round <= MOST_ROUNDS:
            raise MessageError(f"round = {self.round}: must be from 1 to {MOST_ROUNDS}")


def experiment_of(record: RecordDict) -> str:
    """Return the id of the experiment that a request belongs to: a plain name, as it is part of paths.

    Raises
    ------
    MessageError
        If it is missing, or could escape the folder of the node's state.
    """
    experiment = _config(record).get("experiment")
    if not isinstance(experiment, str) or not _PLAIN_NAME.fullmatch(experiment):
        raise MessageError(f"experiment: {experiment!r} is not a plain name")
    return experiment


def mark_reply(reply: RecordDict, request: RecordDict) -> RecordDict:
    """Add to a reply the round of the request that it answers.

    Raises
    ------
    MessageError
        If the request states no round.
    """
    round = _config(request).get(_ROUND)
    if type(round) is not int:
        raise MessageError(f"{_ROUND}: expected int, got {type(round).__name__}")
    return _with_fields(reply, {**_config(reply), _ROUND: round})


def unmark_reply(reply: RecordDict, round: int) -> RecordDict:
    """Return a reply without its round, after checking it: a replayed reply has the round of another request.

    Raises
    ------
    MessageError
        If its round is another one, or missing.
    """
    fields = _config(reply)
    marked = fields.pop(_ROUND, None)
    if marked != round:
        raise MessageError(f"it answers round {marked}, not round {round}")
    return _with_fields(reply, fields)


def _with_fields(record: RecordDict, fields: dict[str, Any]) -> RecordDict:
    """Return a record with other fields; weights are not copied."""
    return RecordDict({**record, _FIELDS: ConfigRecord(fields)})


def _field_types(cls: type[Payload]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _checked(cls: type[Payload], name: str, kind: Any, value: Any) -> Any:  # noqa: ANN401
    allowed = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) not in allowed:
        expected = " or ".join(t.__name__ for t in allowed if t is not type(None))
        raise MessageError(f"{cls.__name__}.{name}: expected {expected}, got {type(value).__name__}")
    return value


def _config(record: RecordDict) -> dict[str, Any]:
    fields = record.get(_FIELDS)
    if not isinstance(fields, ConfigRecord):
        raise MessageError(f"record {_FIELDS!r} is missing")
    return dict(fields)


def _weights(record: RecordDict) -> dict[str, Tensor]:
    arrays = record.get(_WEIGHTS)
    if not isinstance(arrays, ArrayRecord):
        raise MessageError(f"record {_WEIGHTS!r} is missing")
    try:
        return {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    except Exception as error:  # given malformed bytes, NumPy raises errors of many kinds
        raise MessageError(f"record {_WEIGHTS!r} cannot be read: {error}") from error
