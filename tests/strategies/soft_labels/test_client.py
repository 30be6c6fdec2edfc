from dataclasses import replace

import pytest
import torch

from learning.learner import TorchLearner
from learning.training import predict
from protocol.encodings import decode_indices
from protocol.errors import MessageError
from strategies.soft_labels.messages import SoftLabelRequest
from tests.strategies.sides import CLASSES, assert_same_weights, tiny_settings
from tests.strategies.soft_labels.exchange import DistillationSpy, Federation
from tests.support.labels import decode_labels, encode_labels

POOL = 8


@pytest.fixture
def federation(monkeypatch, tmp_path):
    """Return a function that makes a federation."""
    spy = DistillationSpy(monkeypatch)
    return lambda **changes: Federation(tiny_settings(**changes), tmp_path, spy)


def model_of(node):
    """Return the network as the node left it after its last exchange."""
    model = node.side.new_model()
    model.load_state_dict(node.side.store.newest().weights)
    return model


def test_a_client_distils_then_trains_then_predicts_then_evaluates(federation, monkeypatch):
    run, steps = federation(), []
    run.play()
    node = run.nodes["ada"]

    def note(place, step):
        original = getattr(place, step)

        def noted(*arguments):
            steps.append(step)
            return original(*arguments)

        monkeypatch.setattr(place, step, noted)

    for step in ("distil", "train", "predict", "evaluate"):
        note(TorchLearner, step)

    node.handle(run.begin()["ada"].content)

    assert steps == ["distil", "train", "predict", "evaluate"]


def test_what_is_kept_is_the_network_that_predicted_and_was_evaluated(federation):
    run = federation(distillation__indices="explicit")
    for _ in range(3):
        exchanges = run.play()
        for name, exchange in exchanges.items():
            node = run.nodes[name]
            requested = decode_indices(exchange.reply.indices, POOL)
            predictions = predict(model_of(node), node.side.pool.inputs.take(torch.tensor(requested)))
            assert exchange.reply.labels == encode_labels(predictions, "float16").tobytes()
            assert exchange.reply.evaluation == node.side.evaluate(model_of(node))


def test_the_network_goes_on_from_where_it_was(federation):
    run = federation(train__learning_rate=1e-12, distillation__learning_rate=1e-12)
    run.play()
    store = run.nodes["ada"].side.store
    state = store.newest()
    marked = {name: torch.full_like(tensor, 0.5) for name, tensor in state.weights.items()}
    store.save(replace(state, weights=marked))

    run.play()

    assert_same_weights(store.newest().weights, marked)


def test_a_message_repeated_for_a_round_gives_the_same_reply_and_state(federation):
    run = federation()
    for _ in range(3):
        run.play()
    node, content = run.nodes["ada"], run.begin()["ada"].content

    first = node.handle(content)
    kept = node.side.store.newest()
    second = node.handle(content)

    assert second == first
    assert_same_weights(node.side.store.newest().weights, kept.weights)
    assert_same_weights(node.side.store.newest().extra, kept.extra)


def test_a_client_that_cannot_tell_what_is_requested_says_so_and_still_learns_and_evaluates(federation):
    run = federation()
    for _ in range(2):
        run.play()
    node = run.nodes["ada"]
    before = node.side.store.newest().weights
    outgoing = run.begin()["ada"].content
    request = replace(SoftLabelRequest.from_record(outgoing), versions=b"not them")

    exchange = node.handle(request.to_record())

    assert (exchange.reply.lost, exchange.reply.labels, exchange.distilled) == (True, None, {})
    assert exchange.reply.examples > 0
    after = node.side.store.newest().weights
    assert not all(torch.equal(after[name], before[name]) for name in after)


def test_a_client_on_another_base_uses_neither_the_new_labels_nor_its_own_but_predicts(federation):
    run = federation()
    for _ in range(3):
        run.play()
    labels_in_use = len(run.spy.server)
    request = replace(SoftLabelRequest.from_record(run.begin()["ada"].content), base=b"not that")

    exchange = run.nodes["ada"].handle(request.to_record())

    assert (exchange.reply.lost, exchange.distilled, exchange.missing) == (True, {}, labels_in_use)
    assert len(exchange.reply.labels) > 0


@pytest.mark.parametrize("labels", ["float32", "float16", "uint8"])
def test_a_client_keeps_the_wire_bytes_and_decodes_them_as_the_server_does(federation, labels):
    run = federation(distillation__labels=labels, public__subset_size=POOL)
    run.play()

    exchanges = run.play()

    for name, exchange in exchanges.items():
        assert exchange.distilled == run.spy.server
        extra = run.nodes[name].side.store.newest().extra
        assert extra["cache.rows"].numpy().tobytes() == exchange.request.labels
        rows = extra["cache.rows"].numpy()
        decoded = decode_labels(rows, CLASSES, labels)
        assert list(exchange.distilled.values()) == [tuple(row) for row in decoded.tolist()]


@pytest.mark.parametrize("changes", [{"labels": b"\0"}, {"silent_rounds": b"?"}, {"used": b"d"}])
def test_a_malformed_message_is_refused_and_changes_no_state(federation, changes):
    run = federation()
    for _ in range(2):
        run.play()
    node = run.nodes["ada"]
    request = replace(SoftLabelRequest.from_record(run.begin()["ada"].content), **changes)

    with pytest.raises(MessageError):
        node.handle(request.to_record())

    assert node.side.store.newest().round == 2


def test_state_digests_name_the_kept_caches_newest_first(federation):
    run = federation()
    assert run.nodes["ada"].method.state_digests() == []

    replies = [run.play()["ada"].reply for _ in range(3)]

    assert run.nodes["ada"].method.state_digests() == [replies[2].cache, replies[1].cache]
