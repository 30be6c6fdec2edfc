import copy
import itertools
from dataclasses import replace

import pytest
import torch

from protocol.errors import MessageError
from strategies.method import MethodState
from strategies.weights.fedavg import FedAvgClient, FedAvgServer
from strategies.weights.messages import WeightsReply, WeightsRequest
from tests.strategies.sides import (
    EXPERIMENT,
    assert_same_weights,
    client_side,
    linear_network,
    server_side,
    tiny_settings,
)

NUMBERS = 3 * 4 + 3
SETTINGS = tiny_settings(strategy="fedavg")


@pytest.fixture
def server():
    return FedAvgServer(server_side(SETTINGS), EXPERIMENT)


def reply(seed, trained_on=1, **changes):
    return replace(WeightsReply(0.5, 1.0, 4, trained_on, linear_network(seed).state_dict()), **changes)


def weights(server):
    return copy.deepcopy(dict(server.weights()))


def play(server, round, *replies):
    server.begin(round, [f"client-{place}" for place in range(len(replies))], final=False)
    for place, content in enumerate(replies):
        server.accept(f"client-{place}", round, content.to_record())
    server.finish(round)
    return weights(server)


# --- the server ----------------------------------------------------------------------------------


def test_the_new_model_is_the_mean_weighted_by_samples(server):
    samples = {1: 10, 2: 30, 3: 2}

    merged = play(server, 1, *(reply(seed, count) for seed, count in samples.items()))

    for name, tensor in merged.items():
        parts = [count * linear_network(seed).state_dict()[name].double() for seed, count in samples.items()]
        assert torch.equal(tensor, (sum(parts) / 42).float())


def test_every_round_starts_its_own_mean(server):
    play(server, 1, reply(1), reply(2))

    merged = play(server, 2, reply(3))

    assert_same_weights(merged, linear_network(3).state_dict())


def test_arrival_order_does_not_change_a_bit():
    replies = [reply(seed, count) for seed, count in ((1, 7), (2, 23), (3, 1), (4, 100))]
    merged = [
        play(FedAvgServer(server_side(SETTINGS), EXPERIMENT), 1, *order)
        for order in itertools.permutations(replies)
    ]

    for other in merged[1:]:
        assert_same_weights(other, merged[0])


def test_a_round_without_reply_keeps_the_model(server):
    before = play(server, 1, reply(1))

    assert_same_weights(play(server, 2), before)


def test_a_late_reply_is_not_merged(server):
    server.begin(1, ["ada"], final=False)
    server.finish(1)
    server.begin(2, ["ben"], final=False)
    server.accept("ben", 2, reply(2).to_record())

    late = server.accept("ada", 1, reply(1, trained_on=1000).to_record())

    server.finish(2)
    assert late.evaluation.examples == 4
    assert_same_weights(weights(server), linear_network(2).state_dict())


def spoiled(**tensors):
    return {**linear_network(1).state_dict(), **tensors}


BAD = {
    "NaN": {"weights": spoiled(**{"1.bias": torch.tensor([0, float("nan"), 0])})},
    "infinite": {"weights": spoiled(**{"1.bias": torch.tensor([0, float("-inf"), 0])})},
    "flipped bits": {"weights": spoiled(**{"1.bias": torch.tensor([0, -1e30, 0])})},
    "another shape": {"weights": spoiled(**{"1.bias": torch.zeros(4)})},
    "another shape of the same size": {"weights": spoiled(**{"1.weight": torch.zeros(4, 3)})},
    "another type": {"weights": spoiled(**{"1.bias": torch.zeros(3, dtype=torch.float64)})},
    "one name too many": {"weights": spoiled(extra=torch.zeros(3))},
    "a name missing": {"weights": {"1.weight": torch.zeros(3, 4)}},
    "nothing at all": {"weights": {}},
    "NaN as loss": {"loss": float("nan")},
    "no example": {"examples": 0},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_a_bad_reply_is_refused_without_a_trace(server, changes):
    server.begin(1, ["ada", "ben", "cem"], final=False)
    server.accept("ada", 1, reply(2, 5).to_record())

    with pytest.raises(MessageError):
        server.accept("ben", 1, reply(1, **{"trained_on": 7, **changes}).to_record())

    server.accept("cem", 1, reply(3, 6).to_record())
    server.finish(1)
    other = FedAvgServer(server_side(SETTINGS), EXPERIMENT)
    assert_same_weights(weights(server), play(other, 1, reply(2, 5), reply(3, 6)))


def test_each_client_is_sent_the_global_model_at_four_bytes_a_number(server):
    before = play(server, 1, reply(1))

    outgoing = server.begin(2, ["ada", "ben"], final=False)

    for each in outgoing.values():
        request = WeightsRequest.from_record(each.content)
        assert (request.round, each.paper_down) == (2, 4 * NUMBERS)
        assert_same_weights(request.weights, before)
    assert server.accept("ada", 2, reply(5).to_record()).paper_up == 4 * NUMBERS


def test_a_server_that_goes_on_from_a_checkpoint_differs_in_nothing(server):
    middle = play(server, 1, reply(1, 3), reply(2, 5))
    resumed = FedAvgServer(server_side(SETTINGS), EXPERIMENT)
    assert server.state() == MethodState()

    resumed.load_state(server.state(), middle)

    assert_same_weights(play(resumed, 2, reply(3, 4), reply(4, 1)), play(server, 2, reply(3, 4), reply(4, 1)))


# --- the client ----------------------------------------------------------------------------------


@pytest.fixture
def side(tmp_path):
    return client_side(SETTINGS, "ada", tmp_path)


def ask(side, round=1):
    request = WeightsRequest(EXPERIMENT, round, linear_network(7).state_dict())
    return WeightsReply.from_record(FedAvgClient(side).answer(request.to_record()))


def test_a_client_scores_the_received_model_before_it_trains_it(side):
    answer = ask(side)

    assert answer.evaluation == side.evaluate(linear_network(7))


def test_a_client_sends_the_model_trained_on_its_samples(side):
    expected = linear_network(7)
    side.train(expected, 3)

    answer = ask(side, round=3)

    assert answer.trained_on == len(side.data.train)
    assert_same_weights(answer.weights, expected.state_dict())


def test_a_client_remembers_nothing(side):
    first = ask(side)

    assert_same_weights(ask(side).weights, first.weights)
    assert not side.store.folder.exists()
    assert FedAvgClient(side).state_digests() == []
