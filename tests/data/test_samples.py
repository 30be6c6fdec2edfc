import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.inputs import TensorInputs
from data.samples import Samples, batches


@given(count=st.integers(0, 200), size=st.integers(2, 60), seed=st.none() | st.integers(0, 9))
def test_each_index_is_in_exactly_one_batch(count, size, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    drawn = [index for batch in batches(count, size, generator) for index in batch.tolist()]
    assert sorted(drawn) == list(range(count))


@given(count=st.integers(2, 200), size=st.integers(2, 60))
def test_every_batch_but_the_last_is_full_and_none_is_a_lone_sample(count, size):
    *others, last = [len(batch) for batch in batches(count, size, None)]
    assert all(length == size for length in others)
    assert 2 <= last <= size + 1


def test_a_sample_left_over_joins_the_batch_before_it():
    assert [batch.tolist() for batch in batches(7, 3, None)] == [[0, 1, 2], [3, 4, 5, 6]]


def test_a_smaller_last_batch_stays_on_its_own():
    assert [batch.tolist() for batch in batches(8, 3, None)] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_one_sample_makes_a_batch_of_one_and_no_sample_makes_none():
    assert [batch.tolist() for batch in batches(1, 3, None)] == [[0]]
    assert list(batches(0, 3, None)) == []


def test_the_shuffle_follows_from_the_generator():
    def order(seed):
        return torch.cat(list(batches(100, 7, torch.Generator().manual_seed(seed)))).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != list(range(100))


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_batches_are_int64(generator):
    assert all(batch.dtype == torch.int64 for batch in batches(9, 4, generator))


def test_take_keeps_each_image_with_its_class():
    samples = Samples(TensorInputs(torch.arange(6.0).reshape(6, 1, 1, 1)), torch.arange(6))
    taken = samples.take(torch.tensor([4, 1]))
    assert len(taken) == 2
    assert taken.inputs[torch.arange(2)].flatten().tolist() == [4.0, 1.0]
    assert taken.targets.tolist() == [4, 1]


def test_to_moves_inputs_and_targets():
    moved = Samples(TensorInputs(torch.zeros(2, 1, 1, 1)), torch.zeros(2, dtype=torch.int64)).to("meta")
    assert moved.inputs.device.type == moved.targets.device.type == "meta"


def test_samples_know_the_shape_of_one_input():
    assert Samples(TensorInputs(torch.zeros(2, 3, 4, 5)), torch.zeros(2)).input_shape == (3, 4, 5)
