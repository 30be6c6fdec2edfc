"""Communication cost in bytes, counted in two ways.

*Paper bytes* follow the formulas of SCARLET's authors: float32 labels, int64 indices and signals. *Wire
bytes* are the bytes actually serialised: every Flower object of every message, in both directions.
"""

from dataclasses import dataclass

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

FLOAT_BYTES, INDEX_BYTES, SIGNAL_BYTES = 4, 8, 8
"""Bytes per number in the formulas of SCARLET's authors."""


@dataclass(frozen=True)
class Traffic:
    """Bytes up (client to server) and down (server to client), counted in both ways."""

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
    return predicted * (FLOAT_BYTES * classes + INDEX_BYTES)
