"""Replies that are lost, late, doubled, out of order or broken: the run goes on, and says what happened."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from models import load_weights
from protocol.encodings import encode_indices
from protocol.ledger import wire_bytes
from protocol.messages import HELLO
from server_app.run_folder import RunFolder
from simulation.grid import Delivery, InProcessGrid, is_train
from simulation.run import grid_for, run_over
from strategies.soft_labels.client import SoftLabelClient
from strategies.soft_labels.messages import SoftLabelReply
from strategies.weights.messages import WeightsReply
from tests.support.faults import (
    Fault,
    by_round,
    corrupted,
    dropped,
    emptied,
    failing,
    in_time,
    keeping,
    late_by,
    replaying,
    twice,
    with_field,
    without,
)
from tests.support.federation import ALL_DIGITS, run_quickly, settings, without_times
from tests.support.labels import encode_labels
from tests.support.witness import Witness

CLASSES = 10


def failures(folder: RunFolder) -> dict[int, dict[str, str]]:
    """Return the reason by client by round."""
    return {
        line["round"]: {failure["client"]: failure["reason"] for failure in line["nodes"]["failed"]}
        for line in folder.rounds()
    }


# --- broken replies ----------------------------------------------------------------------------


def with_labels(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """Change a reply's predictions."""

    def changed(reply: SoftLabelReply) -> SoftLabelReply:
        values = np.frombuffer(reply.labels or b"", dtype="<f4").reshape(-1, CLASSES)
        return replace(reply, labels=encode_labels(change(torch.tensor(values)), "float32").tobytes())

    return corrupted(SoftLabelReply, changed)


def with_first(value: float) -> Fault:
    def changed(labels: torch.Tensor) -> torch.Tensor:
        labels[0, 0] = value
        return labels

    return with_labels(changed)


def with_fields(**fields: Any) -> Fault:
    return corrupted(SoftLabelReply, lambda reply: replace(reply, **fields))


BROKEN_LABELS: dict[str, tuple[Fault, str]] = {
    "NaN among the labels": (with_first(float("nan")), "refused: labels: not all values are finite"),
    "a negative label": (with_first(-0.5), "refused: labels: negative probabilities"),
    "rows that do not sum to 1": (
        with_labels(lambda labels: labels * 1.01),
        "refused: labels: rows must sum",
    ),
    "a row too few": (with_labels(lambda labels: labels[1:]), "refused: labels: "),
    "a class too few": (with_labels(lambda labels: labels[:, 1:]), "refused: labels: "),
    "no labels at all": (with_fields(labels=b""), "refused: labels: 0 bytes, expected"),
    "labels of another type": (
        with_fields(labels=7),
        "refused: SoftLabelReply.labels: expected bytes, got int",
    ),
    "accuracy NaN": (with_fields(accuracy=float("nan")), "refused: accuracy = nan"),
    "accuracy above 1": (with_fields(accuracy=1.5), "refused: accuracy = 1.5"),
    "no test samples": (with_fields(examples=0), "refused: examples = 0"),
    "a missing field": (without("cache"), "refused: SoftLabelReply.cache: expected bytes, got NoneType"),
    "nothing at all": (emptied, "refused: record 'fields' is missing"),
    "an error without a word": (failing(""), "error 0"),
    "an error": (failing("Traceback\n  line 3\nMemoryError: too big\n"), "MemoryError: too big"),
}


@pytest.fixture(scope="module")
def broken_labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """Run with one broken reply a round from the second client, and with that reply lost instead."""
    faults = {(number, 1): fault for number, (fault, _) in enumerate(BROKEN_LABELS.values(), start=1)}
    changes = {"num_rounds": len(faults), "distillation__labels": "float32", "round_timeout": 0.5}
    broken = run_quickly(tmp_path_factory.mktemp("broken"), faults=by_round(faults), **changes)
    lost = by_round(dict.fromkeys(faults, dropped))
    return broken, run_quickly(tmp_path_factory.mktemp("lost"), faults=lost, **changes)


@pytest.mark.parametrize("broken", BROKEN_LABELS)
def test_a_broken_soft_label_reply_is_counted_with_its_reason(
    broken: str, broken_labels: tuple[RunFolder, RunFolder]
) -> None:
    folder, _ = broken_labels
    number = 1 + list(BROKEN_LABELS).index(broken)
    reasons = failures(folder)[number]
    assert list(reasons) == ["client-0001"]
    assert reasons["client-0001"].startswith(BROKEN_LABELS[broken][1])
    assert folder.rounds()[number - 1]["nodes"]["answered"] == 2


def test_a_broken_reply_leaves_no_trace(broken_labels: tuple[RunFolder, RunFolder]) -> None:
    broken, lost = broken_labels
    figures = [[(line["server"], line["clients"]) for line in folder.rounds()] for folder in (broken, lost)]
    assert figures[0] == figures[1]
    assert_same_weights(broken.models / "server.safetensors", lost.models / "server.safetensors")


FOREIGN_INDICES: dict[str, Callable[[SoftLabelReply], SoftLabelReply]] = {
    "other samples": lambda reply: replace(reply, indices=encode_indices(np.arange(40), 120)),
    "samples outside the pool": lambda reply: replace(
        reply, indices=encode_indices(np.arange(100, 140), 200)
    ),
    "unreadable": lambda reply: replace(reply, indices=b"x\xff\xff"),
    "cut off": lambda reply: replace(reply, indices=b"d\xff"),
    "absent": lambda reply: replace(reply, indices=None),
}


@pytest.fixture(scope="module")
def foreign_indices(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    faults = {
        (number, 1): corrupted(SoftLabelReply, change)
        for number, change in enumerate(FOREIGN_INDICES.values(), start=1)
    }
    return run_quickly(
        tmp_path_factory.mktemp("foreign"),
        faults=by_round(faults),
        num_rounds=len(faults),
        distillation__indices="explicit",
    )


@pytest.mark.parametrize("foreign", FOREIGN_INDICES)
def test_a_reply_about_samples_not_asked_for_is_refused(foreign: str, foreign_indices: RunFolder) -> None:
    number = 1 + list(FOREIGN_INDICES).index(foreign)
    reasons = failures(foreign_indices)[number]
    assert list(reasons) == ["client-0001"]
    assert reasons["client-0001"].startswith("refused: indices: ")


def of_first_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    def changed(reply: WeightsReply) -> WeightsReply:
        name = next(iter(reply.weights))
        return replace(reply, weights={**reply.weights, name: change(reply.weights[name])})

    return corrupted(WeightsReply, changed)


BROKEN_WEIGHTS: dict[str, tuple[Fault, str]] = {
    "NaN among the weights": (of_first_tensor(lambda weights: weights * float("nan")), "refused: weights "),
    "another shape": (of_first_tensor(lambda weights: weights[1:]), "refused: tensor "),
    "another type": (of_first_tensor(torch.Tensor.double), "refused: tensor "),
    "no samples": (
        with_field("trained_on", 0),
        "refused: trained_on",
    ),
    "a missing tensor": (
        corrupted(WeightsReply, lambda reply: replace(reply, weights=dict(list(reply.weights.items())[1:]))),
        "refused: tensor ",
    ),
}


@pytest.fixture(scope="module")
def broken_weights(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    faults = {(number, 1): fault for number, (fault, _) in enumerate(BROKEN_WEIGHTS.values(), start=1)}
    changes = {"num_rounds": len(faults), "strategy": "fedavg", **ALL_DIGITS}
    return run_quickly(tmp_path_factory.mktemp("weights"), faults=by_round(faults), **changes)


@pytest.mark.parametrize("broken", BROKEN_WEIGHTS)
def test_broken_weights_are_counted_with_their_reason(broken: str, broken_weights: RunFolder) -> None:
    number = 1 + list(BROKEN_WEIGHTS).index(broken)
    reasons = failures(broken_weights)[number]
    assert list(reasons) == ["client-0001"]
    assert reasons["client-0001"].startswith(BROKEN_WEIGHTS[broken][1])
    assert broken_weights.rounds()[-1]["server"]["accuracy"] > 0.5


def test_an_exception_on_a_node_is_attributed_to_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SoftLabelClient.answer

    def fail_once(self: SoftLabelClient, content: Any) -> Any:
        if self._client.name == "client-0002" and not self._client.store.before(2):
            raise RuntimeError("the disk is full")
        return answer(self, content)

    monkeypatch.setattr(SoftLabelClient, "answer", fail_once)
    folder = run_quickly(tmp_path, num_rounds=2)
    assert failures(folder)[1] == {"client-0002": "RuntimeError: the disk is full"}


# --- lost and late -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lost_and_late(tmp_path_factory: pytest.TempPathFactory) -> tuple[InProcessGrid, RunFolder]:
    """Lose client 0's reply of round 2; client 1's of round 2 comes in round 3."""
    faults = by_round({(2, 0): dropped, (2, 1): late_by(7.0)}, otherwise=late_by(3.0))
    run_settings = settings(tmp_path_factory.mktemp("late"), num_rounds=6, distillation__indices="explicit")
    grid = grid_for(run_settings, faults=faults)
    return grid, run_over(grid, run_settings)


def test_a_reply_that_does_not_come_in_time_is_counted(
    lost_and_late: tuple[InProcessGrid, RunFolder],
) -> None:
    reason = "no reply within 5 s (round-timeout)"
    assert failures(lost_and_late[1])[2] == {"client-0000": reason, "client-0001": reason}


def test_a_client_at_work_on_an_earlier_message_is_not_asked(
    lost_and_late: tuple[InProcessGrid, RunFolder],
) -> None:
    grid, folder = lost_and_late
    _, late, _ = grid.nodes
    assert [request.metadata.group_id for request in grid.requests_to(late)] == ["1", "2", "4", "5", "6"]
    assert [line["nodes"]["asked"] for line in folder.rounds()] == [3, 3, 1, 2, 3, 3]


def test_a_lost_message_dies_and_its_client_is_asked_again(
    lost_and_late: tuple[InProcessGrid, RunFolder],
) -> None:
    grid, folder = lost_and_late
    lossy, _, _ = grid.nodes
    assert [request.metadata.group_id for request in grid.requests_to(lossy)] == ["1", "2", "5", "6"]
    assert all(not failed for number, failed in failures(folder).items() if number > 2)


def test_a_late_reply_counts_its_bytes_where_it_arrives(
    lost_and_late: tuple[InProcessGrid, RunFolder],
) -> None:
    grid, folder = lost_and_late
    sizes = {int(reply.metadata.group_id): 0 for reply in grid.replies if is_train(reply)}
    late = next(
        reply for reply in grid.replies if is_train(reply) and round_of(reply) == 2 and sender(reply) == 1
    )
    for reply in grid.replies:
        if is_train(reply) and reply is not late:
            sizes[round_of(reply)] += wire_bytes(reply)
    sizes[3] += wire_bytes(late)
    assert [line["bytes"]["wire_up"] for line in folder.rounds()] == list(sizes.values())


@pytest.mark.parametrize("seconds", [7.0, 9.5, None], ids=["one-round", "two-rounds", "never"])
def test_a_late_reply_still_acknowledges(tmp_path: Path, seconds: float | None) -> None:
    """What a message brought is not sent again if its reply came late, and is if it never came."""
    # D is large and P^t is most of P, so nearly every label of round 2 is in use in round 4 again.
    changes = {"public__subset_size": 100, "scarlet__cache_duration": 50, "num_rounds": 7}
    run_settings = settings(tmp_path, **changes)
    late = dropped if seconds is None else late_by(seconds)
    grid = grid_for(run_settings, faults=by_round({(2, 1): late}, otherwise=late_by(3.0)))
    run_over(grid, run_settings)
    _, late_node, node = grid.nodes
    first_of_all = wire_bytes(grid.requests_to(node)[1])  # brings 100 labels
    next_one = wire_bytes(grid.requests_to(late_node)[2])
    assert (next_one < 0.5 * first_of_all) == (seconds is not None)


def round_of(message: Message) -> int:
    return int(message.metadata.group_id)


def sender(reply: Message) -> int:
    return (reply.metadata.src_node_id - 1000) % 2**62


# --- order -------------------------------------------------------------------------------------


def in_any_order(seed: int) -> Callable[[Message, Message, float], list[Delivery]]:
    draw = random.Random(seed)
    return lambda request, reply, now: [Delivery(reply, now + draw.uniform(0, 4))]


@pytest.mark.parametrize(
    "changes",
    [
        {"distillation__labels": "float32"},
        {"strategy": "fedavg"},
        {"strategy": "scalefl", "model": "elastic-cnn"},
    ],
)
def test_the_order_of_arrival_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    first, second = (
        run_quickly(tmp_path / str(seed), nodes=4, faults=in_any_order(seed), num_rounds=3, **changes)
        for seed in (1, 2)
    )
    assert without_times(first.rounds()) == without_times(second.rounds())
    saved = [file.name for file in sorted(first.models.iterdir())]
    assert "server.safetensors" in saved
    for name in saved:
        assert_same_weights(first.models / name, second.models / name)


def test_a_reply_that_comes_twice_counts_once(tmp_path: Path) -> None:
    """Only its bytes count twice."""
    changes = {"num_rounds": 2, "strategy": "fedavg"}
    once = run_quickly(tmp_path / "once", **changes)
    doubled = run_quickly(tmp_path / "twice", faults=by_round({}, otherwise=twice), **changes)
    assert [line["nodes"] for line in doubled.rounds()] == [line["nodes"] for line in once.rounds()]
    assert_same_weights(once.models / "server.safetensors", doubled.models / "server.safetensors")
    ups = [[line["bytes"]["wire_up"] for line in folder.rounds()] for folder in (once, doubled)]
    assert ups[1] == [2 * count for count in ups[0]]


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "scarlet"},
        {"strategy": "dsfl"},
        {"strategy": "individual"},
        {"strategy": "fedavg"},
        {"strategy": "scalefl", "model": "elastic-cnn"},
    ],
    ids=lambda changes: changes["strategy"],
)
def test_a_reply_of_an_earlier_round_that_is_sent_again_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    kept: list[Any] = []
    faults = {(1, 1): keeping(kept), (2, 1): replaying(kept)}
    folder = run_quickly(tmp_path, faults=by_round(faults), num_rounds=3, **changes)
    assert failures(folder) == {1: {}, 2: {"client-0001": "refused: it answers round 1, not round 2"}, 3: {}}


# --- everything at once ------------------------------------------------------------------------


class EverythingGoesWrong:
    """Deals out faults to the replies of rounds, in random order; about half of them fare well."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._dealt: list[Fault] = []

    def __call__(self, request: Message, reply: Message, now: float) -> list[Delivery]:
        if request.metadata.message_type == HELLO:
            return in_time(reply, now)
        self._dealt = self._dealt or self._deck()
        return self._dealt.pop()(reply, now)

    def _deck(self) -> list[Fault]:
        well = [late_by(self._draw.uniform(0, 4)) for _ in range(8)]
        late = [late_by(self._draw.uniform(5, 14)) for _ in range(2)]
        error = failing("OSError: no space left on device")
        broken = [
            with_fields(loss=float("nan")),
            with_fields(labels=b"1234567"),
            with_fields(cache=b"8 bytes."),
        ]
        deck = [*well, *late, dropped, twice, error, *broken]
        self._draw.shuffle(deck)
        return deck


@pytest.mark.parametrize(
    ("seed", "changes"),
    [
        (1, {}),
        (2, {"scarlet__expiry": "evict", "distillation__labels": "uint8"}),
        (3, {"distillation__indices": "explicit", "fraction_train": 0.6}),
        (4, {"strategy": "dsfl"}),
    ],
)
def test_no_client_ever_distils_on_another_label_than_the_servers(
    seed: int, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness(monkeypatch)
    run_settings = settings(tmp_path, num_rounds=12, min_replies=0, public__size=60, **changes)
    grid = grid_for(run_settings, nodes=5, faults=EverythingGoesWrong(seed))
    folder = run_over(grid, run_settings)
    lines = folder.rounds()

    assert witness.compared > 500
    assert witness.wrong == []
    assert {kind_of(failure["reason"]) for line in lines for failure in line["nodes"]["failed"]} == {
        "no reply",
        "OSError",
        "refused: accuracy",
        "refused: labels",
    }
    assert [line["round"] for line in lines] == list(range(1, 13))
    for line in lines:
        nodes = line["nodes"]
        assert nodes["asked"] == nodes["answered"] + len(nodes["failed"])
        assert all(failure["client"] and failure["reason"] for failure in nodes["failed"])
    assert_counted(grid, lines)


def kind_of(reason: str) -> str:
    """Return how a reason begins, as far as it does not depend on the reply."""
    kinds = ("no reply", "OSError", "refused: accuracy", "refused: labels")
    return next((kind for kind in kinds if reason.startswith(kind)), reason)


def assert_counted(grid: InProcessGrid, lines: list[dict[str, Any]]) -> None:
    """Every byte of every message sent and of every reply taken is in some round."""
    down = sum(wire_bytes(request) for request in grid.requests if is_train(request))
    up = sum(wire_bytes(reply) for reply in grid.replies if is_train(reply))
    assert sum(line["bytes"]["wire_down"] for line in lines) == down
    assert sum(line["bytes"]["wire_up"] for line in lines) == up


def assert_same_weights(first: Path, second: Path) -> None:
    """Compare two files of weights bit for bit."""
    one, other = load_weights(first)[0], load_weights(second)[0]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
