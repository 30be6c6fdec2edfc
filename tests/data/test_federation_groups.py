import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.federation import load_client_data, load_public_pool, load_server_test, load_shared
from protocol.errors import DataError
from tests.data.numbered import clients_of, numbered_parquet, numbers, run_settings, sides

ROWS = 120
SITES = 4
DRAW = random.Random(0)
PATIENTS = sorted(DRAW.randrange(45) for _ in range(ROWS))
DRAW.shuffle(PATIENTS)
SITE_OF = [f"hospital {patient % SITES}" for patient in PATIENTS]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    return numbered_parquet(folder, ROWS, patient=PATIENTS, site=SITE_OF, mixed=["a", "b"] * (ROWS // 2))


def patients(rows):
    return {PATIENTS[row] for row in rows}


def sites(rows):
    return {SITE_OF[row] for row in rows}


# --- groups --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**40),
    clients=st.integers(1, 3),
    split=st.sampled_from(["iid", "dirichlet", "shards", "linear"]),
)
def test_no_group_is_on_two_sides_and_each_sample_is_on_one(path, seed, clients, split):
    run = run_settings(path, seed, group="patient", split=split, alpha=10.0, withheld_size=5)
    held = sides(run, clients)
    groups = [patients(rows) for rows in held]
    assert sorted(row for rows in held for row in rows) == list(range(ROWS))
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_parts_are_larger_than_asked_by_less_than_a_group(path):
    run = run_settings(path, group="patient", withheld_size=5)
    largest = max(map(PATIENTS.count, PATIENTS))
    for size, rows in zip((20, 10, 5), sides(run, 2), strict=False):
        assert size - largest < len(rows) < size + largest
    assert len(load_public_pool(run)) >= 20


def test_without_groups_rows_of_one_patient_are_divided(path):
    groups = [patients(rows) for rows in sides(run_settings(path, withheld_size=5), 3)]
    assert sum(map(len, groups)) > len(set().union(*groups))


def test_labels_stay_with_their_samples_when_groups_are_kept_together(path):
    run = run_settings(path, group="patient", split="dirichlet", alpha=10.0)
    for client in clients_of(run, 3):
        assert client.train.targets.tolist() == [row % 3 for row in numbers(client.train.inputs)]
        assert client.test.targets.tolist() == [row % 3 for row in numbers(client.test.inputs)]


def test_parts_that_leave_too_few_groups_are_refused_by_their_column(path):
    expected = (
        r"public\.size = 100 and data\.server-test-size = 10: together they take \d+ of the \d+ groups by "
        r'data\.group = "patient" in .*, and a client needs 4'
    )
    with pytest.raises(DataError, match=expected):
        load_shared(run_settings(path, public_size=100, group="patient"))


def test_a_client_of_too_few_groups_to_test_on_others_is_refused(tmp_path):
    path = numbered_parquet(tmp_path, 60, patient=[row // 6 for row in range(60)])
    run = run_settings(path, group="patient", split="natural", public_source=path, test_source=str(path))
    expected = r'client 3 of 5: holds 2 groups by data\.group = "patient"; it needs 3'
    with pytest.raises(DataError, match=expected):
        load_client_data(run, 3, 5)


# --- natural splits ------------------------------------------------------------------------------


def test_with_as_many_clients_as_sites_each_has_one(path):
    run = run_settings(path, site="site", split="natural")
    held = sides(run, SITES)
    for client in range(SITES):
        assert sites(held[3 + 2 * client]) == sites(held[4 + 2 * client]) == {f"hospital {client}"}
    assert sorted(row for rows in held for row in rows) == list(range(ROWS))


def test_with_fewer_clients_than_sites_none_is_divided(path):
    held = sides(run_settings(path, site="site", split="natural"), 2)
    first, second = sites(held[3] + held[4]), sites(held[5] + held[6])
    assert len(first) == len(second) == 2
    assert not first & second


def test_sites_with_groups_are_divided_between_train_and_test_by_groups(path):
    held = sides(run_settings(path, site="site", group="patient", split="natural"), SITES)
    for client in range(SITES):
        train, test = held[3 + 2 * client], held[4 + 2 * client]
        assert sites(train + test) == {f"hospital {client}"}
        assert not patients(train) & patients(test)


def test_groups_are_dealt_whole_where_there_are_no_sites(path):
    held = sides(run_settings(path, group="patient", split="natural"), 5)
    groups = [patients(rows) for rows in held]
    assert sum(map(len, groups)) == len(set().union(*groups))
    sizes = [len(held[3 + 2 * client] + held[4 + 2 * client]) for client in range(5)]
    assert max(sizes) - min(sizes) <= 2


def test_a_natural_split_needs_a_column(path):
    with pytest.raises(DataError, match=r'data\.split = "natural": needs data\.site or data\.group'):
        load_client_data(run_settings(path, split="natural"), 0, 2)


def test_more_clients_than_sites_are_refused_with_their_names(path):
    with pytest.raises(
        DataError, match=r'num-partitions = 5: must be at most 4 .*"site" has 4 values: hospital 0'
    ):
        load_client_data(run_settings(path, site="site", split="natural"), 0, 5)


def test_a_group_at_two_sites_is_refused_where_sites_decide(path):
    with pytest.raises(DataError, match=r'data\.site = "mixed": must be the same in all rows of a group'):
        load_client_data(run_settings(path, site="mixed", group="patient", split="natural"), 0, 2)


def test_a_group_at_two_sites_does_not_matter_to_other_splits(path):
    run = run_settings(path, site="mixed", group="patient")
    assert len(load_client_data(run, 0, 2).train) > 10
    assert load_server_test(run) is not None
