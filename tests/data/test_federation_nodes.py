import logging

import pytest

from data.federation import (
    load_client_data,
    load_own_data,
    load_public_pool,
    load_server_test,
    load_shared,
    load_withheld,
)
from protocol.errors import DataError
from tests.data.numbered import numbered_parquet, numbers, run_settings
from tests.data.on_disk import COLOUR, csv, encoded, image_folder, image_parquet


@pytest.fixture
def public(tmp_path):
    return numbered_parquet(tmp_path, 30, first=200, name="public.parquet")


@pytest.fixture
def own(tmp_path):
    return numbered_parquet(tmp_path, 20)


def nodes(public, **data):
    return run_settings("nodes", public_source=public, **{"classes": "3", **data})


def load_own(run, own, public_path="", client="hospital-a"):
    return load_own_data(run, str(own), public_path, client)


# --- a node's own data ---------------------------------------------------------------------------


def test_a_node_trains_and_tests_on_all_of_its_own(public, own):
    data = load_own(nodes(public), own)
    train, test = numbers(data.train.inputs), numbers(data.test.inputs)
    assert sorted(train + test) == list(range(20))
    assert len(test) == 4
    assert data.train.targets.tolist() == [number % 3 for number in train]
    assert data.num_classes == 3


def test_what_a_node_tests_on_follows_from_seed_and_name(public, own):
    def tested(seed, client):
        return numbers(load_own(nodes(public, seed=seed), own, client=client).test.inputs)

    first = tested(0, "a")
    assert first == tested(0, "a")
    assert len({tuple(first), tuple(tested(1, "a")), tuple(tested(0, "b"))}) == 3


def test_a_nodes_images_become_like_the_pools(public, tmp_path):
    own = image_parquet(tmp_path, [encoded(pixels) for pixels in COLOUR], name="own.parquet")
    assert load_own(nodes(public), own).train.input_shape == (1, 3, 2)


def test_a_nodes_groups_are_not_divided(public, tmp_path):
    patients = [row // 4 for row in range(20)]
    own = numbered_parquet(tmp_path, 20, patient=patients)
    data = load_own(nodes(public, group="patient"), own)
    train, test = numbers(data.train.inputs), numbers(data.test.inputs)
    assert sorted(train + test) == list(range(20))
    assert not {patients[row] for row in train} & {patients[row] for row in test}


def test_a_node_needs_the_column_of_groups_and_not_that_of_sites(public, own):
    assert len(load_own(nodes(public, site="site"), own).train) == 16
    with pytest.raises(DataError, match=r'data\.group = "patient": data-path = ".*" has no such column'):
        load_own(nodes(public, group="patient"), own)


def test_a_node_may_use_only_its_first_samples(public, own):
    data = load_own(nodes(public, max_samples=10), own)
    assert sorted(numbers(data.train.inputs) + numbers(data.test.inputs)) == list(range(10))


def test_a_folder_of_images_lies_at_a_node(public, tmp_path):
    image_folder(tmp_path / "own", classes=("ill", "well"), images=4)
    data = load_own(nodes(public, classes="well,ill"), tmp_path / "own")
    assert sorted(data.train.targets.tolist() + data.test.targets.tolist()) == [0] * 4 + [1] * 4


def test_classes_that_a_node_lacks_are_named_in_the_log(public, tmp_path, caplog):
    own = numbered_parquet(tmp_path, 20, labels=[1] * 20)
    with caplog.at_level(logging.INFO, "flwr"):
        load_own(nodes(public), own)
    assert caplog.messages == ["hospital-a holds 1 of the federation's 3 classes; it has no sample of 0, 2"]


def test_a_node_that_holds_all_classes_logs_nothing(public, own, caplog):
    with caplog.at_level(logging.INFO, "flwr"):
        load_own(nodes(public), own)
    assert caplog.messages == []


# --- what is refused -----------------------------------------------------------------------------


def test_a_folder_that_lacks_a_class_is_not_numbered_by_what_is_left(public, tmp_path):
    image_folder(tmp_path / "own", classes=("dog", "fox"), images=4)
    with pytest.raises(
        DataError, match=r'data-path = ".*/own", row 0: label \'dog\' is none of the 3 classes'
    ):
        load_own(nodes(public), tmp_path / "own")


def test_too_few_samples_are_refused(public, tmp_path):
    own = numbered_parquet(tmp_path, 3)
    with pytest.raises(DataError, match=r'data-path = ".*": holds 3 samples; a client needs 4'):
        load_own(nodes(public), own)


def test_too_few_groups_are_refused(public, tmp_path):
    own = numbered_parquet(tmp_path, 20, patient=[1, 2] * 10)
    with pytest.raises(DataError, match=r'data-path = ".*": holds 2 groups by data\.group = "patient"'):
        load_own(nodes(public, group="patient"), own)


def test_data_of_another_kind_than_the_pools_are_refused(public, tmp_path):
    own = csv(tmp_path, "age,label\n" + "5,0\n6,1\n" * 4)
    with pytest.raises(DataError, match=r"table\.csv holds a table, the public pool images"):
        load_own(nodes(public), own)


def test_a_column_that_a_node_lacks_is_named(tmp_path):
    public = csv(tmp_path, "age,sex,label\n" + "5,m,0\n6,f,1\n" * 10, "public.csv")
    own = csv(tmp_path, "sex,label\n" + "m,0\nf,1\n" * 4)
    expected = r"table\.csv: there is no column 'age', which the public pool has; there are sex"
    with pytest.raises(DataError, match=expected):
        load_own(nodes(public), own)


def test_a_label_outside_is_refused_by_the_nodes_setting(public, own):
    with pytest.raises(
        DataError, match=r'data-path = ".*", row 2: label \'2\' is none of the 2 classes 0, 1'
    ):
        load_own(nodes(public, classes="2"), own)


def test_nobody_sees_all_labels_so_classes_must_be_declared(public, own):
    with pytest.raises(
        DataError, match=r'data\.classes = "": with data\.source = "nodes" nobody sees all labels'
    ):
        load_own(nodes(public, classes=""), own)


def test_without_a_source_to_cut_it_from_the_pool_must_be_named(own):
    with pytest.raises(
        DataError, match=r'public\.source = "": with data\.source = "nodes" there is nothing to'
    ):
        load_own(nodes(""), own)


def test_own_data_in_a_run_that_splits_a_source_are_refused(public, own):
    run = run_settings(own, public_source=public)
    with pytest.raises(DataError, match=r'data-path = .* this run splits data\.source = ".*" over the nodes'):
        load_own(run, own)


def test_a_node_without_own_data_is_refused(public):
    with pytest.raises(DataError, match=r"every node needs data-path in its node-config.*in a simulation"):
        load_client_data(nodes(public), 0, 2)


# --- what all share ------------------------------------------------------------------------------


def test_the_pool_may_lie_elsewhere_on_a_node(public, own, tmp_path):
    run = nodes(public)
    pool = load_public_pool(run)
    moved = public.rename(tmp_path / "moved.parquet")
    there = load_shared(run, str(moved)).pool
    assert there.digest == pool.digest
    assert numbers(there.inputs) == numbers(pool.inputs)
    assert len(load_own(run, own, str(moved)).train) == 16


def test_a_pool_that_is_not_there_is_named_by_the_nodes_setting(public, own):
    with pytest.raises(DataError, match=r'public-path = "/nowhere": this path does not exist'):
        load_own(nodes(public), own, "/nowhere")


def test_the_server_tests_on_a_source_of_its_own_or_not_at_all(public, tmp_path):
    assert load_server_test(nodes(public)) is None
    test = numbered_parquet(tmp_path, 12, name="test.parquet")
    assert len(load_server_test(nodes(public, test_source=str(test), server_test_size=0))) == 12


def test_nothing_can_be_withheld_of_what_nodes_hold(public):
    with pytest.raises(DataError, match=r'data\.source = "nodes": there is no common source'):
        load_withheld(nodes(public))
