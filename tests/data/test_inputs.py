import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import inputs as module
from data.inputs import PixelInputs, TensorInputs, TokenInputs, in_batches

PIXELS = torch.randint(256, (9, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ROWS = torch.tensor([8, 2, 2, 5, 0, 7])
MEAN = torch.tensor([100.0, 120.5, 7.0]).reshape(3, 1, 1)
DEVIATION = torch.tensor([50.0, 1.0, 99.25]).reshape(3, 1, 1)


def pixel_inputs():
    return PixelInputs(PIXELS, ROWS, MEAN, DEVIATION)


def tensor_inputs(count=6):
    return TensorInputs(torch.arange(2.0 * count).reshape(count, 2))


BOTH = pytest.mark.parametrize("make", [pixel_inputs, tensor_inputs])


def everything(inputs):
    return inputs[torch.arange(len(inputs))]


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_of_pixels_is_less_the_mean_by_the_deviation_of_each_channel():
    batch = pixel_inputs()[torch.tensor([3, 0])]
    assert batch.dtype == torch.float32
    assert torch.equal(batch, (PIXELS[[5, 8]].float() - MEAN) / DEVIATION)


def test_pixels_stay_as_they_are_when_a_batch_is_made():
    before = PIXELS.clone()
    everything(pixel_inputs())
    assert torch.equal(PIXELS, before)


def test_a_batch_of_numbers_is_the_rows_asked_for():
    assert tensor_inputs()[torch.tensor([2, 0])].tolist() == [[4.0, 5.0], [0.0, 1.0]]


def test_inputs_know_their_number_and_the_shape_of_one():
    assert (len(pixel_inputs()), pixel_inputs().shape) == (6, (3, 4, 5))
    assert (len(tensor_inputs()), tensor_inputs().shape) == (6, (2,))
    assert (len(token_inputs()), token_inputs().shape) == (3, (6, 50))


@given(count=st.integers(1, 60), most=st.integers(1, 20))
def test_batches_cover_all_inputs_in_order_and_are_nearly_equal(count, most):
    inputs = tensor_inputs(count)
    batches = list(in_batches(inputs, most))
    sizes = [len(batch) for batch in batches]
    assert torch.equal(torch.cat(batches), inputs.values)
    assert len(sizes) == -(-count // most)
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1


def test_no_inputs_make_one_empty_batch_of_the_right_shape():
    assert [batch.shape for batch in in_batches(tensor_inputs(0), 4)] == [(0, 2)]


# --- taking some ---------------------------------------------------------------------------------


@BOTH
def test_some_inputs_are_the_same_as_before_they_were_taken(make):
    indices = torch.tensor([4, 1, 1])
    taken = make().take(indices)
    assert len(taken) == 3
    assert torch.equal(everything(taken), make()[indices])


def test_taking_copies_no_pixels():
    assert pixel_inputs().take(torch.tensor([1])).pixels is PIXELS


# --- devices -------------------------------------------------------------------------------------


def test_pixels_are_not_copied_where_they_already_are():
    assert pixel_inputs().to("cpu").pixels is PIXELS


def test_few_pixels_go_to_another_device_without_what_lies_beside_them(monkeypatch):
    monkeypatch.setattr(module, "MOST_COPIED_BYTES", PIXELS[ROWS].nbytes)
    moved = pixel_inputs().to("meta")
    assert moved.pixels.device.type == "meta"
    assert moved.pixels.shape == PIXELS[ROWS].shape
    assert torch.equal(moved.rows, torch.arange(len(ROWS)))


def test_many_pixels_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(module, "MOST_COPIED_BYTES", PIXELS[ROWS].nbytes - 1)
    assert pixel_inputs().to("meta").pixels is PIXELS


@pytest.mark.parametrize("small", [0, 2**30])
@BOTH
def test_batches_come_out_on_the_device_asked_for(make, small, monkeypatch):
    monkeypatch.setattr(module, "MOST_COPIED_BYTES", small)
    moved = make().to("meta")
    assert moved.device == torch.device("meta")
    assert everything(moved).device == torch.device("meta")
    assert moved.take(torch.tensor([1])).device == torch.device("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("small", [0, 2**30])
@BOTH
def test_batches_on_a_gpu_are_those_on_the_cpu(make, small, monkeypatch):
    monkeypatch.setattr(module, "MOST_COPIED_BYTES", small)
    indices = torch.tensor([3, 0, 3])
    batch = make().to("cuda")[indices]
    assert batch.is_cuda
    assert torch.allclose(batch.cpu(), make()[indices], atol=1e-6)


# --- texts ---------------------------------------------------------------------------------------


def token_inputs():
    """Three texts of 4, 2 and 3 tokens."""
    tokens = torch.tensor([[2, 9, 8, 3], [2, 3, 0, 0], [2, 7, 3, 0]], dtype=torch.int32)
    return TokenInputs(tokens, torch.tensor([4, 2, 3]), (6, 50))


def test_a_batch_of_texts_is_as_long_as_its_longest():
    batch = token_inputs()[torch.tensor([2, 1])]
    assert batch.dtype == torch.int64
    assert batch.tolist() == [[2, 7, 3], [2, 3, 0]]


def test_texts_are_taken_in_the_order_asked_for():
    taken = token_inputs().take(torch.tensor([1, 0, 1]))
    assert taken[torch.arange(3)].tolist() == [[2, 3, 0, 0], [2, 9, 8, 3], [2, 3, 0, 0]]
    assert taken.take(torch.tensor([0]))[torch.tensor([0])].tolist() == [[2, 3]]
    assert taken.shape == (6, 50)


def test_texts_move_to_a_device_and_their_lengths_stay():
    moved = token_inputs().to("meta")
    assert moved.device == torch.device("meta")
    assert moved[torch.tensor([1])].shape == (1, 2)
    assert moved.take(torch.tensor([0])).device == torch.device("meta")
