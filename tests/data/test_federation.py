import hashlib
import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.federation import (
    load_client_data,
    load_public_pool,
    load_server_test,
    load_shared,
    load_withheld,
    split_parts,
)
from data.sources import load_source
from protocol.errors import DataError
from protocol.settings import DataSettings, PublicSettings, RunSettings

SPLITS = ["iid", "dirichlet", "dirichlet-unequal", "pathological"]
CLIENTS = 10


def run_settings(seed=0, public_size=600, **data):
    return RunSettings(
        seed=seed, data=DataSettings(**data), public=PublicSettings(size=public_size, subset_size=1)
    )


def digits():
    return load_source("data.source", "digits", DataSettings())


def parts_of(seed=0, public_size=600, test_size=300, withheld_size=0):
    return split_parts(
        digits(),
        DataSettings(server_test_size=test_size, withheld_size=withheld_size),
        PublicSettings(size=public_size, subset_size=1),
        seed,
    )


def clients_of(settings, clients=CLIENTS):
    return [load_client_data(settings, client, clients) for client in range(clients)]


def everything(inputs):
    return inputs[torch.arange(len(inputs))]


def as_bytes(inputs):
    return [image.numpy().tobytes() for image in everything(inputs)]


def images(inputs):
    """Count the images by their bytes; no two of the digits are the same."""
    return Counter(as_bytes(inputs))


def all_images():
    """Return the bytes of all digits, from 0 to 1, in order."""
    return [(image.float() / 16).numpy().tobytes() for image in digits().content.pixels]


def fingerprint(*tensors):
    return hashlib.blake2b(b"".join(one.numpy().tobytes() for one in tensors), digest_size=8).hexdigest()


def class_shares(targets):
    return torch.bincount(targets, minlength=10) / len(targets)


def distance(targets, others):
    """Total variation distance between the class shares of two sets of samples, 0 to 1."""
    return float((class_shares(targets) - class_shares(others)).abs().sum() / 2)


@pytest.mark.slow
@given(
    public_size=st.integers(1, 1000),
    test_size=st.integers(1, 593),
    withheld_size=st.integers(0, 200),
    seed=st.integers(0, 2**40),
)
def test_the_parts_never_overlap_and_use_each_sample(public_size, test_size, withheld_size, seed):
    parts = parts_of(seed, public_size, test_size, withheld_size)
    sizes = (len(parts.public), len(parts.server_test), len(parts.withheld))
    assert sizes == (public_size, test_size, withheld_size)
    together = torch.cat([parts.public, parts.server_test, parts.withheld, parts.private])
    assert together.sort().values.equal(torch.arange(1797))


def test_the_parts_follow_from_the_seed():
    first, again, other = parts_of(1), parts_of(1), parts_of(2)
    assert first.public.equal(again.public)
    assert first.private.equal(again.private)
    assert not first.public.equal(other.public)


def test_parts_that_leave_nothing_to_the_clients_are_refused():
    expected = r"public\.size = 1000 and data\.server-test-size = 794: .* at most 1793, .* digits has 1797"
    with pytest.raises(DataError, match=expected):
        parts_of(public_size=1000, test_size=794)


def test_what_is_withheld_is_named_where_it_leaves_too_little():
    expected = r"data\.server-test-size = 793 and data\.withheld-size = 1: together"
    with pytest.raises(DataError, match=expected):
        parts_of(public_size=1000, test_size=793, withheld_size=1)


def test_withholding_nothing_leaves_every_other_part_as_it_was():
    with_, without = parts_of(withheld_size=50), parts_of()
    assert with_.public.equal(without.public)
    assert with_.server_test.equal(without.server_test)
    assert torch.cat([with_.withheld, with_.private]).equal(without.private)


@pytest.mark.parametrize("split", [*SPLITS, "shards", "linear"])
def test_everyone_together_holds_each_image_once(split):
    run = run_settings(split=split, withheld_size=40)
    held = images(load_public_pool(run).inputs) + images(load_server_test(run).inputs)
    held += images(load_withheld(run).inputs)
    for client in clients_of(run):
        held += images(client.train.inputs) + images(client.test.inputs)
    assert held == Counter(all_images())
    assert set(held.values()) == {1}


def test_each_image_keeps_its_class():
    classes = dict(zip(all_images(), digits().labels, strict=True))
    run = run_settings()
    client = load_client_data(run, 3, CLIENTS)
    for samples in (client.train, client.test, load_server_test(run)):
        assert samples.targets.tolist() == [classes[image] for image in as_bytes(samples.inputs)]


def test_a_client_knows_the_classes_of_the_whole_data_set():
    assert load_client_data(run_settings(split="pathological"), 0, CLIENTS).num_classes == 10


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_a_client_tests_on_its_share(fraction):
    for client in clients_of(run_settings(client_test_fraction=fraction)):
        total = len(client.train) + len(client.test)
        assert len(client.test) == pytest.approx(fraction * total, abs=0.51)


@pytest.mark.parametrize(("fraction", "train", "test"), [(0.01, 3, 1), (0.99, 2, 2)])
def test_the_smallest_client_has_two_samples_to_train_on_and_one_to_test_on(fraction, train, test):
    run = run_settings(split="iid", client_test_fraction=fraction, public_size=1797 - 300 - 8)
    for client in clients_of(run, clients=2):
        assert (len(client.train), len(client.test)) == (train, test)


@pytest.mark.parametrize("split", ["dirichlet", "dirichlet-unequal", "pathological"])
def test_a_client_tests_on_classes_like_those_it_trains_on(split):
    run = run_settings(split=split)
    clients = clients_of(run)
    everyone = torch.cat([client.train.targets for client in clients])
    to_itself = sum(distance(client.test.targets, client.train.targets) for client in clients)
    to_everyone = sum(distance(client.test.targets, everyone) for client in clients)
    assert to_itself < 0.5 * to_everyone


def test_what_a_client_holds_follows_from_the_seed():
    first, again = (load_client_data(run_settings(seed=7), 2, CLIENTS) for _ in range(2))
    other = load_client_data(run_settings(seed=8), 2, CLIENTS)
    assert as_bytes(first.train.inputs) == as_bytes(again.train.inputs)
    assert as_bytes(first.test.inputs) == as_bytes(again.test.inputs)
    assert images(first.train.inputs) != images(other.train.inputs)


def test_the_server_tests_on_as_many_samples_as_asked():
    assert len(load_server_test(run_settings(server_test_size=123))) == 123


def test_the_public_pool_has_the_size_asked():
    assert len(load_public_pool(run_settings(public_size=321))) == 321


def test_the_public_pool_has_the_digest_of_its_images_in_their_order():
    run = run_settings()
    parts = load_shared(run).parts
    assert load_public_pool(run).digest == digits().content.digest(parts.public)


def test_pools_of_other_seeds_have_other_digests():
    assert load_public_pool(run_settings(seed=1)).digest != load_public_pool(run_settings(seed=2)).digest


def test_digits_go_from_0_to_1():
    pool = everything(load_public_pool(run_settings()).inputs)
    assert pool.dtype == torch.float32
    assert (pool.min(), pool.max()) == (0, 1)


def test_the_withheld_samples_are_as_many_as_asked():
    assert len(load_withheld(run_settings(withheld_size=30))) == 30


def test_the_facts_are_json():
    run = run_settings(public_size=50)
    facts = json.loads(json.dumps(load_shared(run).facts(), allow_nan=False))
    assert facts == {
        "classes": list("0123456789"),
        "public pool": {"size": 50, "digest": load_public_pool(run).digest},
        "input": {"shape": [1, 8, 8], "mean": [0.0], "deviation": [1.0]},
    }


# Recorded before there were other sources than digits and parquet files: what a seed gives never changes.
RECORDED_PARTS = ("c958dd5b458587de", "dc072635c5b3dbcc", "e4a6a0577479b2b4", "f7fde1a5de43e471")
RECORDED_SHARED = ("be6a6e0a00ba1411", "24a81356ee52e617", "856cce5e4e9ef2bf")
RECORDED_CLIENTS = {
    "iid": ("70c0ea7b55ba6d0b", "4cdac4b61c5e9168"),
    "dirichlet": ("0bb1d534da730a8c", "11524dcb6578046d"),
    "dirichlet-unequal": ("635accb125bd9dba", "3bbbebf2cc248931"),
    "pathological": ("5108dce40acf766c", "4ad966f0191a9424"),
}


def test_the_parts_of_the_digits_are_those_recorded():
    parts = parts_of(seed=3)
    found = [fingerprint(part) for part in (parts.public, parts.server_test, parts.withheld, parts.private)]
    assert tuple(found) == RECORDED_PARTS


def test_the_shared_digits_are_those_recorded():
    run = run_settings(withheld_size=40)
    inputs = (load_public_pool(run).inputs, load_server_test(run).inputs, load_withheld(run).inputs)
    assert tuple(fingerprint(everything(one)) for one in inputs) == RECORDED_SHARED


@pytest.mark.parametrize("split", SPLITS)
def test_each_clients_digits_are_those_recorded(split):
    clients = clients_of(run_settings(split=split, withheld_size=40))
    samples = [part for client in clients for part in (client.train, client.test)]
    inputs = fingerprint(*(everything(part.inputs) for part in samples))
    assert (inputs, fingerprint(*(part.targets for part in samples))) == RECORDED_CLIENTS[split]
