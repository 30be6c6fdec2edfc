import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor

from models.elastic.channels import Channels, axes_of
from models.elastic.cnn import CNN
from models.elastic.merging import SliceMean
from models.elastic.slicing import SliceMap, index_policy
from tests.support.elastic import TINY_MSDNET, TINY_RESNET

ROWS, COLUMNS = 6, 5


def matrix_axes(rows, columns):
    return {"w": (Channels.of("rows", rows), Channels.of("columns", columns))}


def bits(tensor):
    return tensor.view(torch.int32)


# --- small examples ----------------------------------------------------------------------------------


def test_each_coordinate_becomes_the_mean_over_the_parts_that_cover_it():
    mean = SliceMean({"w": torch.arange(16.0).reshape(4, 4)})

    for width, fill in ((2, 1.0), (2, 3.0), (3, 10.0)):
        where = SliceMap(matrix_axes(4, 4), matrix_axes(width, width))
        mean.add({"w": torch.full((width, width), fill)}, where)

    expected = [[14 / 3, 14 / 3, 10, 3], [14 / 3, 14 / 3, 10, 7], [10, 10, 10, 11], [12, 13, 14, 15]]
    torch.testing.assert_close(mean.merged()["w"], torch.tensor(expected))


def lora_axes(rank):
    ranks = Channels.of("rank", rank)
    return {"A": (ranks, Channels.of("inputs", 3)), "B": (Channels.of("outputs", 5), ranks)}


def test_adapters_of_unequal_rank_are_merged_rank_by_rank():
    before = {"A": torch.arange(12.0).reshape(4, 3), "B": -torch.arange(20.0).reshape(5, 4)}
    mean = SliceMean(before)

    for rank, fill in ((1, 1.0), (2, 2.0), (2, 4.0)):
        part = {"A": torch.full((rank, 3), fill), "B": torch.full((5, rank), fill)}
        mean.add(part, SliceMap(lora_axes(4), lora_axes(rank)))

    merged = mean.merged()
    covered = torch.tensor([7 / 3, 3.0])
    torch.testing.assert_close(merged["A"][:2], covered.reshape(2, 1).expand(2, 3))
    torch.testing.assert_close(merged["B"][:, :2], covered.expand(5, 2))
    assert torch.equal(merged["A"][2:], before["A"][2:])
    assert torch.equal(merged["B"][:, 2:], before["B"][:, 2:])


def test_a_part_counts_as_often_as_its_weight_says():
    mean = SliceMean({"w": torch.zeros(2, 2)})
    whole, part = matrix_axes(2, 2), matrix_axes(1, 2)

    mean.add({"w": torch.full((2, 2), 1.0)}, SliceMap(whole, whole), weight=3)
    mean.add({"w": torch.full((1, 2), 5.0)}, SliceMap(whole, part), weight=1)

    assert mean.merged()["w"].tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert mean.total_weight == 4


def test_parts_of_one_map_add_their_weights():
    where = SliceMap(matrix_axes(2, 2), matrix_axes(2, 2))
    mean = SliceMean({"w": torch.zeros(2, 2)})

    mean.add({"w": torch.full((2, 2), 1.0)}, where, weight=1)
    mean.add({"w": torch.full((2, 2), 3.0)}, where, weight=3)

    assert mean.merged()["w"].tolist() == [[2.5, 2.5], [2.5, 2.5]]
    assert mean.total_weight == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_merged_network_keeps_its_dtype(dtype):
    mean = SliceMean({"w": torch.ones(2, 2, dtype=dtype)})

    where = SliceMap(matrix_axes(2, 2), matrix_axes(1, 1))
    mean.add({"w": torch.full((1, 1), 2.0, dtype=dtype)}, where)

    expected = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=dtype)
    torch.testing.assert_close(mean.merged()["w"], expected, rtol=0, atol=0)


def test_nothing_added_leaves_the_network_as_it_was():
    before = {"w": torch.randn(4, 4)}

    mean = SliceMean(before)

    assert torch.equal(mean.merged()["w"], before["w"])
    assert mean.total_weight == 0


def test_what_no_part_covers_keeps_its_bits():
    subnormal = 1e-45
    before = {"w": torch.tensor([[1.0, -0.0], [subnormal, torch.finfo(torch.float32).max]])}
    mean = SliceMean(before)

    mean.add({"w": torch.full((1, 1), 7.0)}, SliceMap(matrix_axes(2, 2), matrix_axes(1, 1)))

    merged = mean.merged()["w"]
    assert merged[0, 0] == 7
    uncovered = torch.tensor([[False, True], [True, True]])
    assert torch.equal(bits(merged)[uncovered], bits(before["w"])[uncovered])


def test_neither_the_network_before_nor_a_part_is_changed_or_kept():
    before, part = {"w": torch.ones(2, 2)}, {"w": torch.full((2, 2), 3.0)}
    mean = SliceMean(before)
    mean.add(part, SliceMap(matrix_axes(2, 2), matrix_axes(2, 2)))

    part["w"].fill_(100.0)
    mean.merged()["w"].fill_(100.0)

    assert before["w"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert mean.merged()["w"].tolist() == [[3.0, 3.0], [3.0, 3.0]]


# --- the official code's rounds ----------------------------------------------------------------------


def recorded_init(tensor):
    flat = (7 * np.arange(np.prod(tensor["shape"])) + 31 * tensor["pos"]) % 97 / 97 - 0.5
    return torch.tensor(flat, dtype=torch.float32).reshape(tensor["shape"])


def recorded_update(client, trained):
    delta = 0.1 * (client + 1) + 0.01 * (torch.arange(trained.numel()) % 13)
    return trained + delta.reshape(trained.shape)


def summary(values):
    flat = values.double().flatten()
    positions = torch.arange(len(flat)) % 1009 + 1
    sums = {"sum": flat.sum(), "abs_sum": flat.abs().sum(), "wsum": (flat * positions).sum()}
    return {name: total.item() for name, total in sums.items()} | {
        "first": flat[:6].tolist(),
        "last": flat[-4:].tolist(),
    }


@pytest.mark.parametrize(
    ("recording", "left_out"), [(TINY_RESNET, 0), (TINY_MSDNET, 19)], ids=["resnet", "msdnet"]
)
def test_a_round_ends_with_what_the_official_code_made_of_it(recording, left_out):
    """Parameters that ``slices_consistent`` corrects are left out: their aggregate is of scrambled slices.

    They are none of ResNet's, and 19 of MSDNet's 224.
    """
    design, image = recording.design, (3, 32, 32)
    levels = [axes_of(design.on_meta(image, 10, shape)) for shape in design.preset]
    before = {name: recorded_init(tensor) for name, tensor in recording.tensors.items()}
    mean = SliceMean(before)
    for client, level in enumerate(recording.client_levels):
        where = SliceMap(levels[-1], levels[level])
        part = where.extract(before)
        mean.add({name: recorded_update(client, tensor) for name, tensor in part.items()}, where)

    merged = mean.merged()

    compared = {name: t for name, t in recording.tensors.items() if "slices_consistent" not in t}
    assert len(recording.tensors) - len(compared) == left_out
    for name, tensor in compared.items():
        ours = summary(merged[name])
        for key, recorded in tensor["aggregated"].items():
            assert ours[key] == pytest.approx(recorded, rel=1e-6, abs=1e-5), (name, key)
        if "aggregated_full" in tensor:
            assert merged[name].flatten().tolist() == pytest.approx(tensor["aggregated_full"], abs=2e-6), name


@pytest.mark.parametrize("kind", ["leading", "rolling", "random"])
@pytest.mark.parametrize("level", range(4))
def test_one_clients_part_is_taken_over_and_the_rest_keeps_its_bits(level, kind):
    image = (1, 8, 8)
    whole = CNN.build(image, 10, CNN.preset[-1])
    before = {name: tensor.detach() for name, tensor in whole.named_parameters()}
    axes = axes_of(CNN.on_meta(image, 10, CNN.preset[level]))
    where = SliceMap(axes_of(whole), axes, index_policy(kind, 0, 7, "client-0001"))
    part = {name: tensor + 1 for name, tensor in where.extract(before).items()}
    mean = SliceMean(before)

    mean.add(part, where, weight=3)

    merged = mean.merged()
    assert all(torch.equal(tensor, part[name]) for name, tensor in where.extract(merged).items())
    for name, tensor in merged.items():
        rest = torch.ones_like(tensor, dtype=torch.bool)
        if name in where:
            rest[where.places(name)] = False
        assert torch.equal(bits(tensor)[rest], bits(before[name])[rest]), name


# --- any round ---------------------------------------------------------------------------------------


def random_values(shape, generator):
    """Draw numbers of which the sizes differ up to 2^16-fold, and some zeros."""
    exponents = torch.randint(16, shape, generator=generator)
    signs = torch.randint(-1, 2, shape, generator=generator)
    return (1 + torch.rand(shape, generator=generator)) * 2.0**exponents * signs


clients = st.lists(
    st.tuples(
        st.sampled_from(["leading", "rolling", "random"]),
        st.integers(1, ROWS),
        st.integers(1, COLUMNS),
        st.integers(1, 2**10),
        st.integers(0, 2**32),
    ),
    min_size=1,
    max_size=8,
)
"""Policy, kept rows and columns, weight and a seed: with at most 2^13 in weights all sums are exact."""


def replies(drawn):
    """Return each client's policy, part, map and weight."""
    for number, (kind, rows, columns, weight, seed) in enumerate(drawn):
        policy = index_policy(kind, seed, seed, f"client-{number:04}")
        where = SliceMap(matrix_axes(ROWS, COLUMNS), matrix_axes(rows, columns), policy)
        part = {"w": random_values((rows, columns), torch.Generator().manual_seed(seed))}
        yield policy, part, where, weight


BEFORE = {"w": random_values((ROWS, COLUMNS), torch.Generator().manual_seed(0))}


@pytest.mark.slow
@given(clients, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_a_bit(drawn, random):
    arrived = list(replies(drawn))
    means = [SliceMean(BEFORE), SliceMean(BEFORE)]

    for mean, order in zip(means, (arrived, random.sample(arrived, len(arrived))), strict=True):
        for _, part, where, weight in order:
            mean.add(part, where, weight)

    first, second = (mean.merged()["w"] for mean in means)
    assert torch.equal(bits(first), bits(second))


@pytest.mark.slow
@given(clients)
def test_the_mean_is_that_of_dense_masks_and_counts(drawn):
    mean = SliceMean(BEFORE)
    total, count = np.zeros((ROWS, COLUMNS)), np.zeros((ROWS, COLUMNS))
    for policy, part, where, weight in replies(drawn):
        mean.add(part, where, weight)
        kept = [
            policy(group, size, n).numpy() if n < size else np.arange(size)
            for group, size, n in zip(("rows", "columns"), (ROWS, COLUMNS), part["w"].shape, strict=True)
        ]
        total[np.ix_(*kept)] += part["w"].numpy().astype(np.float64) * weight
        count[np.ix_(*kept)] += weight

    expected = np.where(count > 0, total / np.maximum(count, 1), BEFORE["w"].numpy())

    assert np.array_equal(mean.merged()["w"].numpy(), expected.astype(np.float32))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 2**20), min_size=1, max_size=8), st.integers(0, 2**32))
def test_equal_parts_are_their_own_mean(weights, seed):
    where = SliceMap(matrix_axes(ROWS, COLUMNS), matrix_axes(ROWS, COLUMNS))
    part = {"w": random_values((ROWS, COLUMNS), torch.Generator().manual_seed(seed))}
    mean = SliceMean(BEFORE)

    for weight in weights:
        mean.add(part, where, weight)

    assert torch.equal(mean.merged()["w"], part["w"])


# --- refusals ----------------------------------------------------------------------------------------

GOOD = {"A": torch.ones(2, 3), "B": torch.ones(5, 2)}
MISFITS = {
    "missing": ({"A": GOOD["A"]}, 1, "'B': missing"),
    "unexpected": (GOOD | {"C": torch.ones(1)}, 1, "'C': unexpected"),
    "shape": (GOOD | {"B": torch.ones(2, 5)}, 1, r"'B': got torch.float32 of shape \(2, 5\), .*\(5, 2\)"),
    "broadcastable shape": (GOOD | {"B": torch.ones(5, 1)}, 1, r"'B': got torch.float32 of shape \(5, 1\)"),
    "dtype": (GOOD | {"B": GOOD["B"].double()}, 1, "'B': got torch.float64 .* expected torch.float32"),
    "zero weight": (GOOD, 0, "weight = 0"),
    "negative weight": (GOOD, -1, "weight = -1"),
}


@pytest.mark.parametrize(("part", "weight", "message"), MISFITS.values(), ids=MISFITS)
def test_a_part_that_does_not_fit_is_refused_and_changes_nothing(part, weight, message):
    mean = SliceMean({"A": torch.zeros(4, 3), "B": torch.zeros(5, 4)})
    where = SliceMap(lora_axes(4), lora_axes(2))
    mean.add(GOOD, where, 2)
    before = mean.merged()

    with pytest.raises(ValueError, match=message):
        mean.add(part, where, weight)

    assert mean.total_weight == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in mean.merged().items())


# --- memory ------------------------------------------------------------------------------------------


def live_tensors():
    """Count the tensors there are, and the bytes of their storages."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    found = [tensor for tensor in found if not isinstance(tensor, FakeTensor)]  # an exporter's, without data
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    return len(found), sum(storages.values())


def test_memory_does_not_grow_with_the_clients_of_a_level():
    where = SliceMap(lora_axes(4), lora_axes(2), index_policy("random", 0, 1, "client-0001"))
    mean = SliceMean({"A": torch.zeros(4, 3), "B": torch.zeros(5, 4)})
    mean.add(GOOD, where)
    after_one = live_tensors()

    for _ in range(20):
        mean.add({name: tensor.clone() for name, tensor in GOOD.items()}, where)

    assert live_tensors() == after_one
    assert mean.total_weight == 21


def test_of_a_client_with_its_own_map_no_weights_are_kept():
    mean = SliceMean({"A": torch.zeros(4, 300), "B": torch.zeros(500, 4)})
    inputs, outputs = Channels.of("inputs", 300), Channels.of("outputs", 500)

    def axes(rank):
        return {"A": (Channels.of("rank", rank), inputs), "B": (outputs, Channels.of("rank", rank))}

    _, before = live_tensors()
    for client in range(10):
        where = SliceMap(axes(4), axes(2), index_policy("random", 0, 1, f"client-{client:04}"))
        mean.add({"A": torch.ones(2, 300), "B": torch.ones(500, 2)}, where)
    del where

    _, after = live_tensors()
    assert after - before < 4 * (2 * 300 + 500 * 2)  # bytes of a single part
