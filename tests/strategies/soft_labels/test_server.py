import itertools
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.encodings import encode_indices
from protocol.errors import MessageError
from protocol.randomness import draw_subset
from strategies import method_of
from strategies.soft_labels.messages import SoftLabelRequest
from strategies.soft_labels.scarlet import enhanced_era
from tests.strategies.sides import CLASSES, EXPERIMENT, assert_same_weights, server_side, tiny_settings
from tests.strategies.soft_labels.exchange import DistillationSpy, Federation, assert_same_server, stored

NAMES = ("ada", "ben", "cem")
POOL = 8


@pytest.fixture
def federation(monkeypatch, tmp_path):
    """Return a function that makes a federation."""
    spy, count = DistillationSpy(monkeypatch), itertools.count()

    def make(names=NAMES, **changes):
        return Federation(tiny_settings(**changes), tmp_path / str(next(count)), spy, names)

    return make


# --- merging -------------------------------------------------------------------------------------


def test_labels_are_the_sharpened_unweighted_mean_of_the_predictions(federation):
    run = federation(distillation__labels="float32", scarlet__beta=2.0)

    exchanges = run.play()

    rows = [np.frombuffer(exchange.reply.labels, dtype="<f4") for exchange in exchanges.values()]
    mean = torch.tensor(np.mean(rows, axis=0, dtype=np.float64)).reshape(-1, CLASSES)
    labels = torch.tensor(list(run.spy.server.values()))
    torch.testing.assert_close(labels, enhanced_era(mean, 2.0), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["float32", "float16", "uint8"])
def test_arrival_order_does_not_change_a_bit(federation, labels):
    def play(order):
        run = federation(distillation__labels=labels)
        sent = []
        for _ in range(4):
            outgoing = run.begin()
            replies = {name: run.nodes[name].handle(outgoing[name].content) for name in NAMES}
            for name in order:
                run.server.accept(name, run.round + 1, replies[name].content)
            run.finish()
            sent.append([exchange.request for exchange in replies.values()])
        return run.server, sent

    first, first_sent = play(NAMES)
    for order in itertools.permutations(NAMES):
        server, sent = play(order)
        assert sent == first_sent
        assert_same_server(server, first)


def test_a_second_copy_of_a_reply_counts_once(federation):
    once, twice = federation(), federation()
    for run, copies in ((once, 1), (twice, 2)):
        outgoing = run.begin()
        for name in NAMES:
            content = run.nodes[name].handle(outgoing[name].content).content
            for _ in range(copies):
                run.server.accept(name, 1, content)
        run.finish()

    assert_same_server(twice.server, once.server)


@pytest.mark.parametrize("rounds_late", [1, 2])
def test_a_late_reply_is_not_merged_but_acknowledges(federation, rounds_late):
    run, without = federation(public__subset_size=6), federation(public__subset_size=6)
    for other in (run, without):
        other.play()
        late = other.play(silent=["cem"])["cem"]
        for _ in range(rounds_late - 1):
            other.play(["ada", "ben"])
        outgoing = other.begin(["ada", "ben"])
        if other is run:
            incoming = run.server.accept("cem", 2, late.content)
            assert (incoming.paper_up, incoming.notes) == (0, "")
        for name, message in outgoing.items():
            other.server.accept(name, other.round + 1, other.nodes[name].handle(message.content).content)
        other.finish()

    assert_same_weights(run.server.weights(), without.server.weights())
    assert np.array_equal(
        run.server.state().arrays["cache.rows"], without.server.state().arrays["cache.rows"]
    )
    bases = [SoftLabelRequest.from_record(other.begin()["cem"].content).base for other in (run, without)]
    assert bases[0] == late.reply.cache != bases[1]


def test_rounds_must_follow_one_another(federation):
    run = federation()
    run.play()

    for round in (1, 3):
        with pytest.raises(ValueError, match=f"round {round}"):
            run.server.begin(round, NAMES, final=False)
    with pytest.raises(ValueError, match="round 2"):
        run.server.finish(2)


# --- refusing ------------------------------------------------------------------------------------


def with_rows(change):
    """Return a change of a reply's labels, given as float32 of shape (n, classes)."""

    def changed(reply):
        rows = np.frombuffer(reply.labels, dtype="<f4").reshape(-1, CLASSES).copy()
        change(rows)
        return replace(reply, labels=rows.tobytes())

    return changed


def set_value(value):
    def change(rows):
        rows[1, 0] = value

    return with_rows(change)


def make_negative(rows):
    rows[1] = [-0.5, 1.0, 0.5]


def scale_row(rows):
    rows[1] *= 1.01


BAD = {
    "NaN": set_value(np.nan),
    "infinite": set_value(np.inf),
    "negative": with_rows(make_negative),
    "a row that does not sum to 1": with_rows(scale_row),
    "a row too few": lambda reply: replace(reply, labels=reply.labels[: -4 * CLASSES]),
    "a row too many": lambda reply: replace(reply, labels=reply.labels + struct.pack("<3f", 1, 0, 0)),
    "a byte too few": lambda reply: replace(reply, labels=reply.labels[:-1]),
    "no byte at all": lambda reply: replace(reply, labels=b""),
    "NaN as accuracy": lambda reply: replace(reply, accuracy=float("nan")),
    "infinite loss": lambda reply: replace(reply, loss=float("inf")),
    "no example": lambda reply: replace(reply, examples=0),
}
BAD_INDICES = {
    "no indices": lambda reply: replace(reply, indices=None),
    "other samples": lambda reply: replace(reply, indices=encode_indices(np.array([0, 1, 2, 3]), POOL)),
    "samples beyond the pool": lambda reply: replace(reply, indices=encode_indices(np.arange(8, 12), 20)),
    "fewer samples": lambda reply: replace(reply, indices=encode_indices(np.array([0]), POOL)),
    "bytes of unknown form": lambda reply: replace(reply, indices=b"?"),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("indices", ["derived", "explicit"])
def test_a_bad_reply_is_refused_whole(federation, spoil, indices):
    check_refusal(federation, spoil, indices)


@pytest.mark.parametrize("spoil", BAD_INDICES.values(), ids=BAD_INDICES.keys())
def test_a_reply_about_other_samples_than_were_named_is_refused_whole(federation, spoil):
    check_refusal(federation, spoil, "explicit")


def check_refusal(federation, spoil, indices):
    """Refuse ben's reply of the second round; compare with a run in which it never arrived."""
    refused, never = (
        federation(
            distillation__labels="float32",
            distillation__indices=indices,
            public__subset_size=4,
            scarlet__cache_duration=0,
        )
        for _ in range(2)
    )
    for run in (refused, never):
        run.play()
        outgoing = run.begin()
        exchanges = {name: run.nodes[name].handle(outgoing[name].content) for name in NAMES}
        run.server.accept("ada", 2, exchanges["ada"].content)
        if run is refused:
            before = stored(run.server.state())
            with pytest.raises(MessageError):
                run.server.accept("ben", 2, spoil(exchanges["ben"].reply).to_record())
            after = run.server.state()
            assert after.facts == before.facts
            assert all(np.array_equal(after.arrays[name], array) for name, array in before.arrays.items())
        run.server.accept("cem", 2, exchanges["cem"].content)
        run.finish()

    assert_same_server(refused.server, never.server)
    assert {name: run.content for name, run in refused.begin().items()} == {
        name: run.content for name, run in never.begin().items()
    }


def test_a_good_reply_is_taken_after_a_bad_one(federation):
    run, other = federation(), federation()
    other.play()
    outgoing = run.begin()
    for name in NAMES:
        exchange = run.nodes[name].handle(outgoing[name].content)
        with pytest.raises(MessageError):
            run.server.accept(name, 1, replace(exchange.reply, labels=b"").to_record())
        run.server.accept(name, 1, exchange.content)
    run.finish()

    assert_same_server(run.server, other.server)


# --- rounds without something --------------------------------------------------------------------


def test_a_round_that_requests_nothing_is_ordinary(federation):
    run = federation(public__subset_size=POOL)  # all is requested in round 1 and cached in 2 and 3
    run.play()

    exchanges = run.play()

    assert all(exchange.reply.labels == b"" for exchange in exchanges.values())
    assert run.server.state().facts["silent-rounds"] == []
    assert sorted(run.spy.server) == list(range(POOL))


def test_a_round_that_requests_nothing_needs_no_reply(federation):
    run = federation(public__subset_size=POOL)
    run.play()
    run.play(silent=NAMES)

    assert run.server.state().facts["silent-rounds"] == []
    assert all(len(exchange.distilled) == POOL for exchange in run.play().values())


def test_a_round_without_any_cached_sample_is_ordinary(federation):
    run = federation(scarlet__cache_duration=0)
    for _ in range(3):
        exchanges = run.play()

    assert all(len(exchange.reply.labels) == 4 * CLASSES * 2 for exchange in exchanges.values())


@pytest.mark.parametrize("expiry", ["refresh", "evict"])
def test_a_round_without_any_reply_is_replayed_by_the_clients(federation, expiry):
    run = federation(scarlet__expiry=expiry)
    silent_rounds = {1, 3, 4, 8}
    truth = {}
    for round in range(1, 13):
        exchanges = run.play(silent=NAMES if round in silent_rounds else ())
        for exchange in exchanges.values():
            assert exchange.distilled == truth
            assert not exchange.reply.lost
        truth = run.spy.server

    assert run.server.state().facts["silent-rounds"] == sorted(silent_rounds)


def test_a_round_without_any_client_is_silent(federation):
    run = federation()
    run.play(names=[])

    assert run.server.state().facts["silent-rounds"] == [1]
    assert run.spy.server == {}


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(1, 7), min_size=1),
    st.lists(st.sets(st.sampled_from(NAMES)), min_size=8, max_size=8),
    st.sampled_from(["refresh", "evict"]),
)
def test_a_server_that_goes_on_from_a_checkpoint_differs_in_nothing(federation, stops, silent, expiry):
    """Whatever was stopped and whoever's replies were lost."""
    stopped, whole = federation(scarlet__expiry=expiry), federation(scarlet__expiry=expiry)
    for round in range(1, 9):
        exchanges, expected = (run.play(silent=silent[round - 1]) for run in (stopped, whole))
        assert exchanges == expected
        if round in stops:
            stopped.restart_server()

    assert_same_server(stopped.server, whole.server)


def test_a_client_that_had_to_start_anew_still_has_to_after_a_checkpoint(federation):
    run = federation()
    for _ in range(2):
        run.play()
    assert run.server.greet(replace(run.nodes["ada"].hello(), state_digests=b""))

    run.restart_server()

    requests = {name: exchange.request for name, exchange in run.play().items()}
    assert {name: request.reset for name, request in requests.items()} == {
        "ada": True,
        "ben": None,
        "cem": None,
    }


# --- the exchange after the last round -----------------------------------------------------------


@pytest.mark.parametrize("strategy", ["scarlet", "dsfl"])
@pytest.mark.parametrize("indices", ["derived", "explicit"])
def test_the_final_exchange_brings_the_last_labels_and_changes_nothing_on_the_server(
    federation, strategy, indices
):
    run, without = (
        federation(strategy=strategy, distillation__final_exchange=True, distillation__indices=indices)
        for _ in range(2)
    )
    for other in (run, without):
        for _ in range(3):
            other.play()
        assert other.server.final_exchange
    last = run.spy.server

    exchanges = run.play(final=True)

    for exchange in exchanges.values():
        assert exchange.distilled == last
        assert exchange.reply.labels is None
        assert exchange.reply.examples > 0
    cache = ("stored", "in-use.indices", "in-use.versions", "cache.versions", "cache.rows")
    for name in cache:
        assert np.array_equal(run.server.state().arrays[name], without.server.state().arrays[name])
    assert_same_weights(run.server.weights(), without.server.weights())
    assert run.server.state().facts["round"] == 3


def test_a_run_that_goes_on_after_its_final_exchange_repeats_that_round(federation):
    """From the checkpoint before it, as a resumed run does."""
    run, whole = federation(), federation()
    for other in (run, whole):
        for _ in range(3):
            other.play()
    checkpoint, weights = stored(run.server.state()), run.server.weights()
    run.play(final=True)
    run.server = method_of(run.settings).server(server_side(run.settings), EXPERIMENT)
    run.server.load_state(checkpoint, weights)
    run.round = 3

    assert run.play() == whole.play()
    assert_same_server(run.server, whole.server)


# --- what it costs by the paper ------------------------------------------------------------------


def played(run, rounds):
    """Play rounds without faults; return the paper bytes down and up, summed over all clients."""
    down = up = 0
    for round in range(1, rounds + 1):
        for name, outgoing in run.begin().items():
            down += outgoing.paper_down
            up += run.server.accept(name, round, run.nodes[name].handle(outgoing.content).content).paper_up
        run.finish()
    return down, up


def test_paper_bytes_of_a_run_with_the_whole_pool_are_the_closed_formula(federation):
    """D = 2, m = |P| = 8, C = 3: rounds 1, 4 and 7 request all; 2 and 5 send all that was new."""
    n, label = POOL, 4 * CLASSES
    request, signals, labels = 8 * n, 16 * n, label * n
    down_by_round = [
        request,
        signals + labels,
        signals,
        request + signals,
        signals + labels,
        signals,
        request + signals,
    ]

    down, up = played(federation(public__subset_size=POOL, scarlet__cache_duration=2), 7)

    assert down == len(NAMES) * sum(down_by_round) == 3 * (3 * 64 + 6 * 128 + 2 * 96)
    assert up == len(NAMES) * 3 * n * (label + 8) == 3 * 3 * 8 * 20


@pytest.mark.parametrize("expiry", ["refresh", "evict"])
def test_paper_bytes_of_a_run_are_the_closed_formula_summed_by_hand(federation, expiry):
    rounds, duration, label = 10, 2, 4 * CLASSES
    run = federation(scarlet__expiry=expiry, scarlet__cache_duration=duration)
    stored_in, requested, down = {}, 0, 0
    for round in range(1, rounds + 1):
        subset = draw_subset(run.settings.seed, round, POOL, 4).tolist()
        down += 16 * len(subset) if round > 1 else 0
        down += label * requested  # the labels of what was requested in the round before
        asked = [sample for sample in subset if round - stored_in.get(sample, -9) > duration]
        requested = len(asked)
        down += 8 * requested
        for sample in asked:
            if expiry == "evict" and sample in stored_in:
                del stored_in[sample]
            else:
                stored_in[sample] = round

    got_down, _ = played(run, rounds)

    assert got_down == len(NAMES) * down


def test_labels_of_catch_up_cost_their_index_as_well(federation):
    """A client that comes to a cache filled in round 1 is sent it in round 3: (8 + 4C) a label."""
    run = federation(public__subset_size=POOL)
    run.play()
    run.play()
    run.join("new")

    outgoing = run.begin()

    assert outgoing["ada"].paper_down == 16 * POOL
    assert outgoing["new"].paper_down == 16 * POOL + (8 + 4 * CLASSES) * POOL
