import math
import os
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import (
    WeightedMean,
    build_model,
    count_parameters,
    learned_state,
    load_learned_state,
    load_weights,
    save_weights,
)
from models.elastic import ExitNetwork
from protocol.errors import ResumeError

OLD = {"weight": torch.tensor([1.0, 2.0])}
NEW = {"weight": torch.tensor([3.0, 4.0])}

DTYPES = (torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
names = st.text(string.ascii_letters + "._0é", min_size=1, max_size=8)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    values = torch.tensor(draw(st.lists(st.integers(0, 200), min_size=27, max_size=27)))
    return values[: math.prod(shape)].reshape(shape).to(draw(st.sampled_from(DTYPES)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def assert_same_state(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


@given(st.dictionaries(names, tensors(), max_size=4), st.dictionaries(names, st.text(max_size=8), max_size=3))
def test_what_is_saved_is_loaded_again(folder, state, metadata):
    path = folder / "state.safetensors"

    save_weights(path, state, metadata)
    loaded, loaded_metadata = load_weights(path)

    assert_same_state(loaded, state)
    assert loaded_metadata == metadata


def test_a_network_goes_on_with_loaded_weights(tmp_path):
    path = tmp_path / "resnet.safetensors"
    trained, fresh = (build_model("resnet20", (1, 8, 8), 10, seed).eval() for seed in (0, 1))
    save_weights(path, trained.state_dict(), {})

    fresh.load_state_dict(load_weights(path)[0])

    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(fresh(images), trained(images))


def test_tensors_that_are_transposed_or_share_memory_are_saved(tmp_path):
    path = tmp_path / "views.safetensors"
    matrix = torch.arange(6.0).reshape(2, 3).requires_grad_()

    save_weights(path, {"matrix": matrix, "tied": matrix, "transposed": matrix.T}, {})

    expected = {"matrix": matrix.detach(), "tied": matrix.detach(), "transposed": matrix.detach().T}
    assert_same_state(load_weights(path)[0], expected)


def test_loaded_tensors_can_be_changed_without_touching_the_file(tmp_path):
    path = tmp_path / "state.safetensors"
    save_weights(path, OLD, {})

    load_weights(path)[0]["weight"].zero_()

    assert_same_state(load_weights(path)[0], OLD)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_crash_in_the_middle_of_saving_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "state.safetensors"
    save_weights(path, OLD, {"round": "1"})

    def crash(*_arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, crash)
        with pytest.raises(OSError, match="no space left"):
            save_weights(path, NEW, {"round": "2"})

    state, metadata = load_weights(path)
    assert_same_state(state, OLD)
    assert metadata == {"round": "1"}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_leaves_behind_is_not_taken_for_the_file(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_arguments: None)  # killed before the rename
        patch.setattr(Path, "unlink", lambda *_arguments, **_options: None)  # and before the clean-up
        save_weights(path, NEW, {})

    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".")
    assert leftover.suffix == ".tmp"
    with pytest.raises(ResumeError):
        load_weights(path)


def test_content_is_on_disk_before_the_rename_and_the_rename_before_the_return(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(
        os, "replace", lambda source, target: (steps.append("replace"), replace(source, target))
    )

    save_weights(tmp_path / "state.safetensors", NEW, {})

    assert steps == ["fsync", "replace", "fsync"]


def test_a_file_cut_short_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "state.safetensors"
    save_weights(path, OLD, {"round": "1"})
    content = path.read_bytes()

    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ResumeError) as refusal:
            load_weights(path)
        assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"{}tail"]
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content):
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)

    with pytest.raises(ResumeError) as refusal:
        load_weights(path)

    assert str(path) in str(refusal.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ResumeError, match=r"absent\.safetensors"):
        load_weights(tmp_path / "absent.safetensors")


# Magnitudes within 2**6 of each other and up to 8 weights below 2**20: s + t = 6 + 23 = 29 bits.
like_magnitudes = st.one_of(
    st.just(0.0),
    st.floats(1.0, 64.0, width=32, exclude_max=True),
    st.floats(-64.0, -1.0, width=32, exclude_min=True),
)
contributions = st.lists(
    st.tuples(st.lists(like_magnitudes, min_size=3, max_size=3), st.integers(1, 2**20 - 1)),
    min_size=1,
    max_size=8,
)


def mean_of(pairs):
    mean = WeightedMean()
    for state, weight in pairs:
        mean.add(state, weight)
    return mean.mean()


@pytest.mark.slow
@given(contributions, st.integers(-140, 120), st.randoms(use_true_random=False))
def test_mean_does_not_depend_on_the_order_of_arrival_by_a_single_bit(rows, exponent, random):
    scale = 2.0**exponent
    pairs = [({"w": torch.tensor(row) * scale}, weight) for row, weight in rows]
    shuffled = random.sample(pairs, len(pairs))

    first, second = mean_of(pairs)["w"], mean_of(shuffled)["w"]

    assert torch.equal(first.view(torch.int32), second.view(torch.int32))


@given(contributions)
def test_mean_is_the_exact_sum_divided_by_the_total_weight(rows):
    total = sum(weight for _, weight in rows)
    exact = [math.fsum(row[i] * weight for row, weight in rows) / total for i in range(3)]

    mean = mean_of(({"w": torch.tensor(row)}, weight) for row, weight in rows)

    assert torch.equal(mean["w"], torch.tensor(exact))


@given(st.lists(st.integers(1, 2**20 - 1), min_size=1, max_size=8), st.floats(width=32, allow_nan=False))
def test_mean_of_equal_states_is_that_state(weights, value):
    state = {"w": torch.tensor([value])}

    assert torch.equal(mean_of((state, weight) for weight in weights)["w"], state["w"])


def test_integers_are_averaged_and_rounded_to_the_nearest():
    pairs = [({"steps": torch.tensor(10)}, 2), ({"steps": torch.tensor(12)}, 3)]

    mean = mean_of(pairs)["steps"]

    assert mean.dtype == torch.int64
    assert mean.item() == 11  # 56 / 5 = 11.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_mean_keeps_the_dtype(dtype):
    pairs = [
        ({"w": torch.tensor([1.0, 2.0], dtype=dtype)}, 1),
        ({"w": torch.tensor([3.0, 4.0], dtype=dtype)}, 3),
    ]

    assert_same_state(mean_of(pairs), {"w": torch.tensor([2.5, 3.5], dtype=dtype)})


def test_mean_of_networks_loads_into_a_network():
    states = [build_model("resnet20", (1, 8, 8), 10, seed).state_dict() for seed in (0, 1)]

    mean = mean_of([(states[0], 1), (states[1], 3)])

    build_model("resnet20", (1, 8, 8), 10, seed=2).load_state_dict(mean)
    expected = (states[0]["head.weight"] + 3 * states[1]["head.weight"]) / 4
    assert torch.allclose(mean["head.weight"], expected)


def test_states_added_are_neither_kept_nor_changed():
    mean = WeightedMean()
    state = {"w": torch.tensor([1.0])}
    mean.add(state, 2)
    assert state["w"].item() == 1.0

    state["w"].fill_(100.0)

    assert mean.mean()["w"].item() == 1.0


MISFITS = {
    "shape": ({"w": torch.zeros(3)}, r"'w': got torch.float32 of shape \(3,\), expected .* of shape \(2,\)"),
    "dtype": ({"w": torch.zeros(2, dtype=torch.float64)}, "'w': got torch.float64 .* expected torch.float32"),
    "missing": ({}, "'w': got no such tensor, expected torch.float32"),
    "unexpected": ({"w": torch.zeros(2), "v": torch.zeros(1)}, "'v': got torch.float32 .* no such tensor"),
}


@pytest.mark.parametrize(("state", "message"), MISFITS.values(), ids=MISFITS)
def test_state_unlike_the_first_is_refused_and_changes_nothing(state, message):
    mean = WeightedMean()
    mean.add({"w": torch.tensor([1.0, 2.0])}, 3)

    with pytest.raises(ValueError, match=message):
        mean.add(state, 5)

    assert_same_state(mean.mean(), {"w": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize(("state", "message"), MISFITS.values(), ids=MISFITS)
def test_first_state_unlike_the_reference_is_refused(state, message):
    mean = WeightedMean(reference={"w": torch.ones(2)})

    with pytest.raises(ValueError, match=message):
        mean.add(state, 5)

    mean.add({"w": torch.tensor([1.0, 2.0])}, 1)
    assert_same_state(mean.mean(), {"w": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize("weight", [0, -1])
def test_weight_below_one_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight = {weight}"):
        WeightedMean().add(OLD, weight)


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no states"):
        WeightedMean(reference=OLD).mean()


# --- what a network learns ---------------------------------------------------------------------------


def layers():
    return torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)


class Exits(ExitNetwork, torch.nn.Sequential):
    """Layers with one exit, after the last."""

    def exits(self, inputs):
        return [torch.nn.Sequential.forward(self, inputs)]


def partly_frozen():
    network = Exits(*layers())
    network[0].requires_grad_(False)
    return network


def test_of_a_users_network_with_frozen_parameters_all_are_its_own_for_no_other_party_has_them():
    network = torch.nn.Sequential(*layers())
    network[0].requires_grad_(False)
    assert learned_state(network).keys() == network.state_dict().keys()


def test_of_a_network_that_learns_whole_all_parameters_and_buffers_are_its_own():
    network = build_model("resnet20", (1, 8, 8), 3, seed=0)
    assert learned_state(network).keys() == network.state_dict().keys()


def test_of_a_network_with_frozen_parameters_those_that_learn_are_its_own():
    network = partly_frozen()
    assert set(learned_state(network)) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert count_parameters(network) == 3 + 3 + 3 + 1


@pytest.mark.parametrize("make", [partly_frozen, lambda: build_model("resnet20", (1, 8, 8), 3, seed=1)])
def test_what_a_network_learned_goes_into_another_and_leaves_the_rest(make):
    source, target = make(), make()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}

    load_learned_state(target, learned_state(source))

    learned = learned_state(source)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, learned[name] if name in learned else before[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("2.bias"), "'2.bias': missing"),
        (lambda state: state.update({"0.weight": torch.zeros(3, 2)}), "'0.weight': unexpected"),
        (lambda state: state.update({"2.bias": torch.zeros(2)}), "2.bias"),
    ],
)
def test_a_state_of_another_network_is_refused(change, message):
    state = dict(learned_state(partly_frozen()))
    change(state)
    with pytest.raises(RuntimeError, match=message):
        load_learned_state(partly_frozen(), state)
