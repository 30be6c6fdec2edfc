import pytest
import torch

from protocol.errors import MessageError
from strategies.individual import IndividualClient, IndividualServer, LocalReply, LocalRequest
from tests.strategies.sides import EXPERIMENT, assert_same_weights, client_side, server_side, tiny_settings


@pytest.fixture
def side(tmp_path):
    return client_side(tiny_settings(strategy="individual"), "ada", tmp_path)


def answer(side, round):
    return IndividualClient(side).answer(LocalRequest(EXPERIMENT, round).to_record())


def test_a_client_trains_on_from_its_own_state(side):
    expected = side.new_model()
    for round in (1, 2, 3):
        side.train(expected, round)

        reply = LocalReply.from_record(answer(side, round))

        assert_same_weights(side.store.newest().weights, expected.state_dict())
        assert reply.evaluation == side.evaluate(expected)


def test_a_round_that_is_repeated_starts_from_the_same_state(side):
    answer(side, 1)
    first = answer(side, 2)
    kept = side.store.newest().weights

    assert answer(side, 2) == first
    assert_same_weights(side.store.newest().weights, kept)


def test_a_network_that_diverged_is_not_kept(tmp_path):
    diverging = client_side(
        tiny_settings(train__learning_rate=3e38, train__epochs=9, train__momentum=0.99), "ada", tmp_path
    )

    with pytest.raises(FloatingPointError):
        answer(diverging, 1)

    assert diverging.store.newest() is None


def test_the_server_asks_and_takes_figures_and_no_bytes_count():
    server = IndividualServer(server_side(tiny_settings()), EXPERIMENT)

    outgoing = server.begin(1, ["ada", "ben"], final=False)
    incoming = server.accept("ada", 1, LocalReply(0.5, 1.25, 4).to_record())

    assert {name: LocalRequest.from_record(each.content) for name, each in outgoing.items()} == {
        "ada": LocalRequest(EXPERIMENT, 1),
        "ben": LocalRequest(EXPERIMENT, 1),
    }
    assert {each.paper_down for each in outgoing.values()} == {incoming.paper_up} == {0}
    assert (incoming.evaluation.accuracy, incoming.evaluation.loss, incoming.evaluation.examples) == (
        0.5,
        1.25,
        4,
    )
    assert server.weights() == {}


def test_the_server_refuses_figures_that_are_not_finite():
    with pytest.raises(MessageError):
        IndividualServer(server_side(tiny_settings()), EXPERIMENT).accept(
            "ada", 1, LocalReply(0.5, float("nan"), 4).to_record()
        )


def test_clients_start_from_networks_of_their_own(tmp_path):
    settings = tiny_settings(strategy="individual")
    ada, ben = (client_side(settings, name, tmp_path).new_model().state_dict() for name in ("ada", "ben"))

    assert not torch.equal(ada["1.weight"], ben["1.weight"])
