import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.federation import load_client_data, load_public_pool, load_server_test, load_shared
from data.texts import TextForm
from data.tokenisers import read as read_tokens
from protocol.errors import DataError
from tests.data.numbered import clients_of, numbered_parquet, numbers, run_settings, sides
from tests.data.on_disk import COLOUR, csv, encoded, image_parquet


def table(folder, rows, name="table.csv", age=lambda row: row):
    lines = (f"{age(row)},{'mf'[row % 2]},{row % 3}" for row in range(rows))
    return csv(folder, "age,sex,label\n" + "\n".join(lines) + "\n", name)


@pytest.fixture
def path(tmp_path):
    return numbered_parquet(tmp_path, 60)


# --- the server's own test -----------------------------------------------------------------------


def test_a_test_source_of_its_own_can_be_used_whole(path, tmp_path):
    test = numbered_parquet(tmp_path, 12, first=200, name="test.parquet")
    samples = load_server_test(run_settings(path, test_source=str(test), server_test_size=0))
    assert sorted(numbers(samples.inputs)) == list(range(200, 212))
    assert samples.targets.tolist() == [number % 3 for number in numbers(samples.inputs)]


def test_as_many_of_a_test_source_as_asked_are_drawn_by_the_seed(path, tmp_path):
    test = numbered_parquet(tmp_path, 12, first=200, name="test.parquet")
    first, other = (
        numbers(load_server_test(run_settings(path, seed, test_source=str(test))).inputs) for seed in (1, 2)
    )
    assert len(set(first)) == len(set(other)) == 10
    assert first != other


def test_more_than_a_test_source_holds_is_refused(path, tmp_path):
    test = numbered_parquet(tmp_path, 9, name="test.parquet")
    expected = r"data\.server-test-size = 10: must be at most 9, the number .*test\.parquet, or 0 for all"
    with pytest.raises(DataError, match=expected):
        load_server_test(run_settings(path, test_source=str(test)))


def test_a_test_source_of_its_own_takes_nothing_of_the_data(path, tmp_path):
    test = numbered_parquet(tmp_path, 12, first=200, name="test.parquet")
    pool, _, withheld, *clients = sides(run_settings(path, test_source=str(test), withheld_size=6), 2)
    assert len(pool) == 20
    assert sorted(itertools.chain(pool, withheld, *clients)) == list(range(60))


def test_test_images_become_like_the_data(path, tmp_path):
    test = image_parquet(tmp_path, [encoded(pixels) for pixels in COLOUR], name="test.parquet")
    run = run_settings(path, test_source=str(test), server_test_size=0)
    assert load_server_test(run).input_shape == load_shared(run).input_shape == (1, 3, 2)


def test_a_test_label_that_the_data_have_not_is_refused_by_its_setting(path, tmp_path):
    test = numbered_parquet(tmp_path, 12, labels=[3] * 12, name="test.parquet")
    expected = r"data\.test-source = .*, row 0: label '3' is none of the 3 classes 0, 1, 2"
    with pytest.raises(DataError, match=expected):
        load_server_test(run_settings(path, test_source=str(test)))


def test_a_test_source_needs_neither_sites_nor_groups(tmp_path):
    path = numbered_parquet(tmp_path, 60, patient=list(range(60)), site=["a", "b"] * 30)
    test = numbered_parquet(tmp_path, 12, name="test.parquet")
    run = run_settings(path, test_source=str(test), group="patient", site="site", split="natural")
    assert len(load_server_test(run)) == 10


# --- the pool's own source -----------------------------------------------------------------------


def test_a_pool_of_its_own_takes_nothing_of_the_data(path, tmp_path):
    public = numbered_parquet(tmp_path, 25, first=200, labels=[9] * 25, name="public.parquet")
    pool, test, _, *clients = sides(run_settings(path, public_source=public), 2)
    assert len(set(pool)) == 20
    assert min(pool) >= 200
    assert len(test) == 10
    assert sorted(itertools.chain(test, *clients)) == list(range(60))


def test_a_pool_of_its_own_needs_no_labels(path, tmp_path):
    images = [encoded(pixels) for pixels in COLOUR]
    public = image_parquet(tmp_path, images, labels=None, name="public.parquet")
    assert len(load_public_pool(run_settings(path, public_source=public, public_size=6))) == 6


def test_a_pool_of_another_size_and_colour_becomes_like_the_data(path, tmp_path):
    public = image_parquet(tmp_path, [encoded(pixels) for pixels in COLOUR], name="public.parquet")
    pool = load_public_pool(run_settings(path, public_source=public, public_size=6))
    expected = {
        np.asarray(Image.fromarray(pixels).convert("L").resize((2, 3))).tobytes() for pixels in COLOUR
    }
    found = (pool.inputs[torch.arange(6)] * 255).round().to(torch.uint8)
    assert pool.inputs.shape == (1, 3, 2)
    assert {image.numpy().tobytes() for image in found} == expected


def test_the_images_asked_for_are_drawn_by_the_seed(path, tmp_path):
    public = numbered_parquet(tmp_path, 25, first=200, name="public.parquet")
    pools = [load_public_pool(run_settings(path, seed, public_source=public)) for seed in (1, 2)]
    assert numbers(pools[0].inputs) != numbers(pools[1].inputs)
    assert pools[0].digest != pools[1].digest


def test_a_pool_that_is_too_small_is_refused(path, tmp_path):
    public = numbered_parquet(tmp_path, 19, name="public.parquet")
    with pytest.raises(
        DataError, match=r"public\.size = 20: must be at most 19, the number of samples in .*public\.parquet"
    ):
        load_public_pool(run_settings(path, public_source=public))


def test_a_pool_of_another_kind_is_refused(path, tmp_path):
    run = run_settings(table(tmp_path, 40), public_source=path)
    with pytest.raises(
        DataError, match=r"table\.csv holds a table, the public pool images: both must be of the same"
    ):
        load_client_data(run, 0, 2)


def test_digits_as_the_pool_of_other_images_are_refused(path):
    with pytest.raises(
        DataError, match=r"images\.parquet has images of \(1, 3, 2\), the public pool has \(1, 8, 8\)"
    ):
        load_client_data(run_settings(path, public_source="digits"), 0, 2)


# --- scaling -------------------------------------------------------------------------------------


def test_images_are_normalised_by_the_pool_alone(path):
    run = run_settings(path, normalisation="public")
    pool = load_public_pool(run).inputs[torch.arange(20)]
    assert abs(pool.mean()) < 1e-6
    assert pool.std(correction=0) == pytest.approx(1, abs=1e-6)
    form = load_shared(run).form
    plain = load_server_test(run_settings(path)).inputs[torch.arange(10)]
    expected = (plain - form.mean[0]) / form.deviation[0]
    assert torch.allclose(load_server_test(run).inputs[torch.arange(10)], expected, atol=1e-5)


def test_images_that_shall_not_be_normalised_go_from_0_to_1(path):
    run = run_settings(path)
    for samples in (load_public_pool(run), clients_of(run, 1)[0].train, load_server_test(run)):
        batch = samples.inputs[torch.arange(len(samples))]
        assert 0 <= batch.min() < batch.max() <= 1


def test_a_table_is_scaled_by_the_pool_alone(tmp_path):
    run = run_settings(table(tmp_path, 60))
    pool = load_public_pool(run).inputs[torch.arange(20)]
    assert abs(pool[:, 0].mean()) < 1e-6
    facts = load_shared(run).facts()["input"]
    for client in clients_of(run, 2):
        scaled = client.train.inputs[torch.arange(len(client.train))][:, 0]
        ages = scaled * facts["deviations"]["age"] + facts["means"]["age"]
        assert torch.allclose(ages, ages.round(), atol=1e-4)
        assert [int(age) % 3 for age in ages.round()] == client.train.targets.tolist()


def test_texts_reach_everyone_as_they_are(tmp_path):
    known = "0 1 2 3 4 5 6 7 8 9"  # so that whichever texts are the pool, all digits are pieces
    path = csv(
        tmp_path, "text,label\n" + "".join(f"{row // 10} {row % 10} {known},{row % 2}\n" for row in range(60))
    )
    run = run_settings(path)
    held = [load_public_pool(run), load_server_test(run)]
    held += [part for client in clients_of(run, 2) for part in (client.train, client.test)]
    read = read_tokens(TextForm.from_facts(load_shared(run).facts()["input"]).tokeniser, 64)
    texts = [[text[:3] for text in read.decode_batch(part.inputs.tokens.tolist())] for part in held]
    assert sorted(itertools.chain(*texts)) == sorted(f"{row // 10} {row % 10}" for row in range(60))
    for part, own in zip(held[1:], texts[1:], strict=True):
        assert part.targets.tolist() == [int(text[-1]) % 2 for text in own]


@pytest.mark.parametrize("kind", ["images", "table", "texts"])
def test_the_facts_of_every_kind_are_json(kind, path, tmp_path):
    if kind == "table":
        path = table(tmp_path, 60, age=lambda row: "" if row % 5 else row)
    elif kind == "texts":
        path = csv(tmp_path, "text,label\n" + "a,0\nb,1\n" * 30)
    facts = json.loads(json.dumps(load_shared(run_settings(path)).facts(), allow_nan=False))
    assert facts["classes"] == (["0", "1"] if kind == "texts" else ["0", "1", "2"])
    assert facts["public pool"]["size"] == 20
    shapes = {"images": [1, 3, 2], "table": [4], "texts": [64, 6]}  # four marks and two letters
    assert facts["input"]["shape"] == shapes[kind]


def test_only_the_first_samples_are_used_if_asked(path):
    assert sorted(itertools.chain(*sides(run_settings(path, max_samples=50), 2))) == list(range(50))
