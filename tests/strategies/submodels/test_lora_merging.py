"""How adapters of unequal rank become one; adapters of one layer stand for all."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.elastic import Channels, SliceMap, SliceMean
from protocol.settings import RunSettings
from strategies.submodels.lora_merging import SingularValues, Stacking, merging_of

INPUTS, OUTPUTS, RANK = 7, 6, 4
SCALE = 2.0
LAYER = "decoder.layers.{}.q_proj"
HEAD = "norm.weight"


def names(layer=0):
    name = LAYER.format(layer)
    return f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight", f"{name}.base_layer.delta"


def axes(rank, layers=1, carried=False):
    found = {HEAD: (None,)}
    for layer in range(layers):
        down, up, delta = names(layer)
        ranks = Channels.of(f"{layer}.rank", rank)
        found |= {down: (ranks, None), up: (None, ranks)}
        if carried:
            found[delta] = (None, None)
    return found


def adapters(rank, seed, layers=1, carried=False):
    generator = torch.Generator().manual_seed(seed)
    state = {HEAD: torch.randn(3, generator=generator)}
    for layer in range(layers):
        down, up, delta = names(layer)
        state[down] = torch.randn(rank, INPUTS, generator=generator)
        state[up] = torch.randn(OUTPUTS, rank, generator=generator)
        if carried:
            state[delta] = torch.randn(OUTPUTS, INPUTS, generator=generator)
    return state


def place(rank, layers=1, of=1, carried=False):
    return SliceMap(axes(RANK, of, carried), axes(rank, layers, carried))


def settings(merge):
    return RunSettings.parse(
        {"strategy": "scalefl", "model": "elastic-vlm", "lora.merge": merge, "lora.scale": SCALE}
    )


def product(state, layer=0):
    down, up, _ = names(layer)
    return state[up].double() @ state[down].double()


def mean_product(clients, layer=0):
    return sum(weight * product(state, layer) for state, weight in clients) / sum(w for _, w in clients)


def bits(state):
    return {name: tensor.view(torch.int32).tolist() for name, tensor in state.items()}


clients_of_any_rank = st.lists(
    st.tuples(st.integers(1, RANK), st.integers(0, 2**16), st.integers(1, 5)), min_size=1, max_size=4
)


# --- counting ----------------------------------------------------------------------------------------


def test_without_adapters_every_setting_counts():
    for merge in ("count", "zero-pad", "svd", "stack"):
        assert type(merging_of({HEAD: torch.ones(3)}, settings(merge), 1)) is SliceMean


def test_counting_is_the_mean_of_slices():
    """The toy of ScaleFL's vectors is in tests/models/elastic/test_merging.py."""
    assert type(merging_of(adapters(RANK, 0), settings("count"), 1)) is SliceMean


# --- zeros (HetLoRA) ---------------------------------------------------------------------------------


def test_a_rank_that_a_client_lacks_counts_as_zero():
    mean = merging_of(adapters(RANK, 0), settings("zero-pad"), 1)
    small, large = adapters(1, 1), adapters(3, 2)
    mean.add(small, place(1))
    mean.add(large, place(3))
    merged = mean.merged()
    down, up, _ = names()
    torch.testing.assert_close(merged[down][:1], (small[down] + large[down][:1]) / 2)
    torch.testing.assert_close(merged[down][1:3], large[down][1:] / 2)
    assert not merged[down][3:].any()
    torch.testing.assert_close(merged[up][:, 1:3], large[up][:, 1:] / 2)
    assert not merged[up][:, 3:].any()
    torch.testing.assert_close(merged[HEAD], (small[HEAD] + large[HEAD]) / 2)


def test_zeros_count_for_those_that_have_the_layer_alone():
    whole = adapters(RANK, 0, layers=2)
    mean = merging_of(whole, settings("zero-pad"), 1)
    shallow, deep = adapters(1, 1), adapters(2, 2, layers=2)
    mean.add(shallow, place(1, 1, of=2))
    mean.add(deep, place(2, 2, of=2))
    merged = mean.merged()
    down, _, _ = names(1)
    torch.testing.assert_close(merged[down][:2], deep[down])
    untouched = merging_of(whole, settings("zero-pad"), 1)
    untouched.add(shallow, place(1, 1, of=2))
    assert torch.equal(untouched.merged()[down], whole[down])


# --- singular values (FlexLoRA) ----------------------------------------------------------------------


@given(clients_of_any_rank)
def test_the_mean_product_is_cut_to_its_best_part_at_every_rank(drawn):
    merging = SingularValues(adapters(RANK, 0))
    states = [(adapters(rank, seed), weight) for rank, seed, weight in drawn]
    for (rank, _, weight), (state, _) in zip(drawn, states, strict=True):
        merging.add(state, place(rank), weight)
    merged, mean = merging.merged(), mean_product(states)
    down, up, _ = names()
    values = torch.linalg.svdvals(mean)
    for rank in range(1, RANK + 1):
        cut = merged[up][:, :rank].double() @ merged[down][:rank].double()
        missed = float(values[rank:].square().sum().sqrt())  # Eckart and Young: no adapter of it is nearer
        assert float((mean - cut).norm()) <= missed + 1e-4 * float(values[0]) + 1e-6


def test_one_clients_adapter_keeps_its_product():
    merging = SingularValues(adapters(RANK, 0))
    state = adapters(2, 1)
    merging.add(state, place(2))
    torch.testing.assert_close(product(merging.merged()), product(state), atol=1e-5, rtol=1e-5)


def test_ranks_that_the_mean_product_lacks_go_on_learning():
    """With nothing in both factors no gradient would ever reach them again."""
    merging = SingularValues(adapters(RANK, 0))
    merging.add(adapters(1, 1), place(1))
    merged = merging.merged()
    down, up, _ = names()
    assert merged[up][:, 1:].abs().max() < 1e-5
    torch.testing.assert_close(merged[down].norm(dim=1), torch.ones(RANK))


# --- stacking (FLoRA) --------------------------------------------------------------------------------


@given(clients_of_any_rank)
def test_what_is_carried_grows_by_exactly_the_mean_product(drawn):
    whole = adapters(RANK, 0, carried=True)
    merging = Stacking(whole, SCALE, 5)
    states = [(adapters(rank, seed), weight) for rank, seed, weight in drawn]
    for (rank, _, weight), (state, _) in zip(drawn, states, strict=True):
        merging.add(state, place(rank, carried=True), weight)
    merged = merging.merged()
    down, up, delta = names()
    expected = whole[delta].double() + SCALE * mean_product(states)
    torch.testing.assert_close(merged[delta].double(), expected, atol=1e-4, rtol=1e-5)
    assert not merged[up].any()
    assert merged[down].abs().max() <= INPUTS**-0.5
    assert not torch.equal(merged[down], whole[down])


def test_a_stacked_layer_that_nobody_has_stays_as_it_is():
    whole = adapters(RANK, 0, layers=2, carried=True)
    merging = Stacking(whole, SCALE, 5)
    merging.add(adapters(1, 1), place(1, 1, of=2, carried=True))
    merged = merging.merged()
    assert all(torch.equal(merged[name], whole[name]) for name in names(1))


def test_adapters_begin_differently_in_every_round():
    whole = adapters(RANK, 0, carried=True)
    fresh = []
    for round in (1, 2):
        merging = merging_of(whole, settings("stack"), round)
        merging.add(adapters(2, 1), place(2, carried=True))
        fresh.append(merging.merged()[names()[0]])
    assert not torch.equal(*fresh)


# --- all ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["count", "zero-pad", "svd", "stack"])
@given(st.integers(0, 2**16))
def test_the_order_of_arrival_changes_no_bit(merge, seed):
    carried = merge == "stack"
    whole = adapters(RANK, 0, carried=carried)
    parts = [(adapters(rank, seed + rank), place(rank, carried=carried), 5 - rank) for rank in (1, 2, 4)]
    results = []
    for order in permutations(parts):
        merging = merging_of(whole, settings(merge), 1)
        for state, where, weight in order:
            merging.add(state, where, weight)
        results.append(bits(merging.merged()))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("merge", ["count", "zero-pad", "svd", "stack"])
def test_without_clients_nothing_changes(merge):
    whole = adapters(RANK, 0, carried=merge == "stack")
    assert bits(merging_of(whole, settings(merge), 1).merged()) == bits(whole)


@pytest.mark.parametrize("merge", ["svd", "stack"])
@pytest.mark.parametrize("change", ["missing", "shape", "unexpected", "dtype"])
def test_a_reply_that_does_not_fit_its_place_is_refused_and_changes_nothing(merge, change):
    carried = merge == "stack"
    merging = merging_of(adapters(RANK, 0, carried=carried), settings(merge), 1)
    merging.add(adapters(2, 1), place(2, carried=carried))
    again = merging_of(adapters(RANK, 0, carried=carried), settings(merge), 1)
    again.add(adapters(2, 1), place(2, carried=carried))
    down, up, _ = names()
    state = adapters(2, 3)
    match change:
        case "missing":
            del state[up]
        case "shape":
            state[up] = state[up][:, :1]
        case "unexpected":
            state["other"] = torch.zeros(1)
        case "dtype":
            state[down] = state[down].double()
    with pytest.raises(ValueError, match="tensor"):
        merging.add(state, place(2, carried=carried))
    assert bits(merging.merged()) == bits(again.merged())
