"""What can go wrong with a reply on its way to the server, by round and client."""

from collections.abc import Callable, Mapping

from flwr.app import Message, RecordDict
from flwr.app.error import Error

from simulation.grid import FIRST_NODE, Delivery, Faults, PayloadT, is_train, read_reply

Fault = Callable[[Message, float], list[Delivery]]
"""Given a reply and the time: what reaches the server, and when."""


def by_round(faults: Mapping[tuple[int, int], Fault], otherwise: Fault | None = None) -> Faults:
    """Return faults that befall the reply of a node, by number, in a round; others fare as ``otherwise``."""

    def fault(request: Message, reply: Message, now: float) -> list[Delivery]:
        if not is_train(request):
            return in_time(reply, now)
        client = request.metadata.dst_node_id - FIRST_NODE
        happens = faults.get((int(request.metadata.group_id), client), otherwise or in_time)
        return happens(reply, now)

    return fault


def in_time(reply: Message, now: float) -> list[Delivery]:
    return [Delivery(reply, now)]


def dropped(reply: Message, now: float) -> list[Delivery]:
    return []


def late_by(seconds: float) -> Fault:
    return lambda reply, now: [Delivery(reply, now + seconds)]


def twice(reply: Message, now: float) -> list[Delivery]:
    return [Delivery(reply, now), Delivery(reply, now)]


def failing(reason: str) -> Fault:
    """Let the node report an error in place of its result."""

    def fault(reply: Message, now: float) -> list[Delivery]:
        return [Delivery(_in_place_of(reply, Error(code=0, reason=reason)), now)]

    return fault


def corrupted(kind: type[PayloadT], change: Callable[[PayloadT], PayloadT]) -> Fault:
    """Let a reply's payload arrive changed."""

    def fault(reply: Message, now: float) -> list[Delivery]:
        changed = change(read_reply(kind, reply)).to_record()
        next(iter(changed.config_records.values()))["round"] = int(reply.metadata.group_id)
        return [Delivery(_in_place_of(reply, changed), now)]

    return fault


def keeping(kept: list[RecordDict]) -> Fault:
    """Let a reply arrive, and keep its content."""

    def fault(reply: Message, now: float) -> list[Delivery]:
        kept.append(reply.content)
        return [Delivery(reply, now)]

    return fault


def replaying(kept: list[RecordDict]) -> Fault:
    """Let the content that was kept arrive in the place of a reply's own."""
    return lambda reply, now: [Delivery(_in_place_of(reply, kept[0]), now)]


def without(field: str) -> Fault:
    """Let a reply arrive that lacks a field."""

    def fault(reply: Message, now: float) -> list[Delivery]:
        del next(iter(reply.content.config_records.values()))[field]
        return [Delivery(reply, now)]

    return fault


def with_field(field: str, value: int) -> Fault:
    """Let a reply arrive with a field that no payload of ours could have."""

    def fault(reply: Message, now: float) -> list[Delivery]:
        next(iter(reply.content.config_records.values()))[field] = value
        return [Delivery(reply, now)]

    return fault


def emptied(reply: Message, now: float) -> list[Delivery]:
    return [Delivery(_in_place_of(reply, RecordDict()), now)]


def then(action: Callable[[], object], fault: Fault = in_time) -> Fault:
    """Let something happen once the node has done its work."""

    def both(reply: Message, now: float) -> list[Delivery]:
        action()
        return fault(reply, now)

    return both


def _in_place_of(reply: Message, content: RecordDict | Error) -> Message:
    return Message(content, metadata=reply.metadata)
