import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import ResumeError
from strategies.state import ClientState, StateStore


def state(round, value=0.0):
    return ClientState(
        round, "cnn", {"layer.weight": torch.tensor([value])}, {"cache.rows": torch.tensor([round])}
    )


def rounds_before(store, round):
    return [kept.round for kept in store.before(round)]


@pytest.fixture
def store(tmp_path):
    return StateStore(tmp_path / "client")


def test_what_is_saved_is_loaded_again(store):
    weights = {"model.weight": torch.tensor([1.0, 2.0]), "running": torch.tensor(3)}
    store.save(ClientState(4, "cnn", weights, {"cache.rows": torch.tensor([7])}, {"versions.round": "3"}))

    kept = store.newest()

    assert (kept.round, kept.facts) == (4, {"versions.round": "3"})
    assert kept.weights.keys() == weights.keys()
    assert all(torch.equal(kept.weights[name], weights[name]) for name in weights)
    assert {name: tensor.tolist() for name, tensor in kept.extra.items()} == {"cache.rows": [7]}


def test_a_client_without_a_past_has_no_state(store):
    assert store.newest() is None
    assert store.before(1) == []


def test_the_last_two_states_are_kept_whatever_rounds_they_are_of(store):
    for round in (1, 4, 9):
        store.save(state(round))

    assert rounds_before(store, 10) == [9, 4]


def test_a_round_begins_from_the_states_of_earlier_rounds(store):
    for round in (4, 9):
        store.save(state(round))

    assert rounds_before(store, 9) == [4]
    assert rounds_before(store, 4) == []


def test_a_round_that_is_repeated_starts_from_the_same_state(store):
    for round in (4, 9):
        store.save(state(round))
    first = store.before(9)

    store.save(state(9, value=5.0))

    assert store.before(9) == first
    assert store.newest().weights["layer.weight"].item() == 5.0


def test_states_of_later_rounds_are_dropped_when_the_run_goes_back(store):
    for round in (7, 8):
        store.save(state(round))

    store.save(state(6))

    assert rounds_before(store, 100) == [6]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_what_is_kept_is_the_newest_and_the_one_before_it(tmp_path_factory, order):
    store, expected = StateStore(tmp_path_factory.mktemp("client")), []
    for round in order:
        store.save(state(round))
        expected = [round, *(kept for kept in expected if kept < round)][:2]
        assert rounds_before(store, 100) == expected
        assert store.newest().round == round


def test_foreign_files_in_the_folder_are_left_alone(store):
    store.save(state(3))
    foreign = store.folder / "notes.txt"
    foreign.write_text("mine")

    for round in (4, 5):
        store.save(state(round))

    assert foreign.read_text() == "mine"
    assert len(list(store.folder.iterdir())) == 3


def test_a_damaged_state_is_an_error_that_names_the_file(store):
    store.save(state(3))
    (file,) = store.folder.iterdir()
    file.write_bytes(b"damaged")

    with pytest.raises(ResumeError, match=file.name):
        store.newest()
