"""Data sets as they are published; where they lie beside the project, each loads by its name."""

from pathlib import Path

import pytest
import torch

from data.federation import load_client_data, load_server_test, load_shared, load_withheld
from data.sources import load_source
from protocol.settings import DataSettings, PublicSettings, RunSettings

DATA = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not at {DATA}"),
]


def run_settings(name, public_size=100, public_source="", **data):
    data = {"split": "iid", "server_test_size": 50, "test_source": "", **data}
    if data["test_source"]:
        data["test_source"] = str(DATA / data["test_source"])
    return RunSettings(
        data=DataSettings(source=str(DATA / name), **data),
        public=PublicSettings(
            source=public_source and str(DATA / public_source), size=public_size, subset_size=1
        ),
    )


def clients_of(run, clients):
    return [load_client_data(run, client, clients) for client in range(clients)]


def samples_of(run, clients):
    """Return how many samples all sides of a run hold together, besides a pool of its own."""
    test = load_server_test(run)
    held = [len(client.train) + len(client.test) for client in clients_of(run, clients)]
    return sum(held) + len(load_shared(run).pool) + (0 if test is None else len(test))


def is_normalised(inputs):
    batch = inputs[torch.arange(len(inputs))]
    return batch.mean().abs() < 1e-4 and abs(batch.std(correction=0) - 1) < 0.01


def test_cifar10_with_the_images_of_cifar100_as_the_pool():
    run = run_settings(
        "cifar10", public_source="cifar100-public", max_samples=600, test_source="cifar10#test",
        split="dirichlet", alpha=1.0,
    )  # fmt: skip
    shared = load_shared(run)
    assert shared.input_shape == (3, 32, 32)
    assert shared.classes.names[:2] == ("airplane", "automobile")
    assert samples_of(run, 5) == 600 + 100 + 50
    assert all(len(client.train) + len(client.test) == 120 for client in clients_of(run, 5))


def test_fashion_mnist():
    run = run_settings("fashion-mnist", max_samples=500)
    shared = load_shared(run)
    assert (shared.input_shape, len(shared.classes)) == ((1, 28, 28), 10)
    assert is_normalised(shared.pool.inputs)
    assert samples_of(run, 3) == 500


def test_knee_xrays_by_patient():
    run = run_settings(
        "knee-oa", max_samples=600, group="patient", test_source="knee-oa#val", server_test_size=0,
        withheld_size=50, split="dirichlet", alpha=10.0, metric="kappa",
    )  # fmt: skip
    shared = load_shared(run)
    assert shared.input_shape == (1, 64, 64)
    assert shared.classes.names == ("KL0", "KL1", "KL2", "KL3", "KL4")
    assert len(load_server_test(run)) == 826
    assert samples_of(run, 3) + len(load_withheld(run)) == 600 + 826
    assert len(shared.source.groups.names) < 600


def test_heart_disease_by_hospital():
    run = run_settings(
        "heart-disease", label="num", classes="0,1|2|3|4", site="site", split="natural",
        categorical="cp,restecg,slope,thal", metric="auroc",
    )  # fmt: skip
    shared = load_shared(run)
    facts = shared.facts()
    assert facts["classes"] == ["0", "1|2|3|4"]
    assert set(facts["input"]["categories"]) == {"cp", "restecg", "slope", "thal"}
    assert len(shared.source.sites.names) == 4
    assert int((shared.source.labels == 0).sum()) == 411
    assert samples_of(run, 4) == 920
    for client in clients_of(run, 4):
        assert client.train.inputs[torch.arange(len(client.train))].isfinite().all()


@pytest.mark.parametrize(
    ("name", "count", "classes"),
    [("sst2", 6920, 2), ("sst2#dev", 872, 2), ("ag-news", 6400, 4), ("banking77", 10003, 77)],
)
def test_texts(name, count, classes):
    run = run_settings(name)
    shared = load_shared(run)
    assert (len(shared.source), len(shared.classes)) == (count, classes)
    length, vocabulary = shared.input_shape
    assert length == 64
    assert 500 < vocabulary <= 4096
    assert samples_of(run, 3) == count
    assert all(isinstance(text, str) and text for text in shared.source.content.texts)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("cifar10/train.parquet", [10] * 10), ("cifar10#test", [10] * 10), ("fashion-mnist#test", None)],
)
def test_the_first_rows_of_images_are_of_all_classes(name, counts):
    source = load_source("data.source", str(DATA / name), DataSettings(), max_samples=100)
    assert source.labels.unique().tolist() == list(range(10))
    assert counts is None or source.labels.bincount().tolist() == counts
