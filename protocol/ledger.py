"""What the exchange costs, counted two ways.

*Paper bytes* are what SCARLET's authors count: float32 labels, int64 indices and signals. *Wire
bytes* are what really is serialised: every Flower object of every message, in both directions.
"""

from dataclasses import dataclass

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

_FLOAT, _INDEX, _SIGNAL = 4, 8, 8


@dataclass(frozen=True)
class Traffic:
    """Bytes up (client to server) and down, in both countings."""

    paper_up: int = 0
    paper_down: int = 0
    wire_up: int = 0
    wire_down: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.paper_up + other.paper_up,
            self.paper_down + other.paper_down,
            self.wire_up + other.wire_up,
            self.wire_down + other.wire_down,
        )

    @property
    def paper(self) -> int:
        """Paper bytes in both directions."""
        return self.paper_up + self.paper_down

    @property
    def wire(self) -> int:
        """Wire bytes in both directions."""
        return self.wire_up + self.wire_down


def wire_bytes(message: Message) -> int:
    """Return the bytes of a message's serialised Flower objects."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def soft_label_paper_up(predicted: int, classes: int) -> int:
    """Return the paper bytes of ``predicted`` soft labels sent up: n·(4C + 8)."""
    return predicted * (_FLOAT * classes + _INDEX)


def scarlet_paper_down(requested: int, sent: int, caught_up: int, subset: int, classes: int) -> int:
    """Return SCARLET's paper bytes down: 8n + 4C·s + 16m, and (8 + 4C) a label of catch-up.

    ``subset`` is the size m of the subset whose labels are in use (0 in the first round), whose
    indices and signals travel.
    """
    return (
        requested * _INDEX
        + sent * _FLOAT * classes
        + subset * (_INDEX + _SIGNAL)
        + caught_up * (_INDEX + _FLOAT * classes)
    )


def dsfl_paper_down(requested: int, sent: int, classes: int) -> int:
    """Return DS-FL's paper bytes down: 8m for the request, (4C + 8) for each label."""
    return requested * _INDEX + sent * (_FLOAT * classes + _INDEX)


def dsfl_paper_exchange(subset: int, classes: int) -> int:
    """Return what one DS-FL exchange costs both ways: 104,000 bytes at C = 10, m = 1,000."""
    return soft_label_paper_up(subset, classes) + dsfl_paper_down(subset, subset, classes)
