import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.encodings import ENCODINGS, decode_indices, encode_indices
from protocol.errors import MessageError
from tests.support.labels import decode_labels, encode_labels, parse_rows, row_bytes, worst_error

NAMES = tuple(ENCODINGS)
LOSSLESS_AGAIN = ("float32", "uint8")


# --- labels ------------------------------------------------------------------------------------------


def uniform(rows, classes):
    return torch.full((rows, classes), 1 / classes)


def one_hot(rows, classes):
    return torch.eye(classes)[torch.arange(rows) % classes]


@st.composite
def soft_labels(draw):
    """Softmax outputs from almost uniform to almost one-hot, and the two ends themselves."""
    rows, classes = draw(st.integers(0, 8)), draw(st.integers(2, 200))
    kind = draw(st.sampled_from([uniform, one_hot, None]))
    if kind is not None:
        return kind(rows, classes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sharpness = draw(st.sampled_from([0.01, 0.3, 1.0, 5.0, 30.0, 1000.0]))
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * sharpness
    return torch.softmax(logits, dim=1).float()


def through(labels, encoding):
    return decode_labels(encode_labels(labels, encoding), labels.shape[1], encoding)


def largest_error(labels, encoding):
    return (through(labels, encoding).double() - labels.double()).abs().max().item()


@pytest.mark.parametrize("encoding", NAMES)
@given(labels=soft_labels())
def test_no_probability_is_off_by_more_than_the_worst_error(encoding, labels):
    errors = (through(labels, encoding).double() - labels.double()).abs()
    assert (errors <= worst_error(encoding)).all()


# In float64, what float32 cannot hold; p = 1/2 that rounds down while its neighbour rounds up;
# 255 = 2·127 + 1 units for 127 equal classes, of which one gets the last unit.
HARD_LABELS = {
    "float32": torch.tensor([[0.75 + 2**-25, 0.25 - 2**-25]], dtype=torch.float64),
    "float16": torch.tensor(
        [[0.5 + 0.99 * 2**-12, 0.25 + 1.01 * 2**-13, 0.25 - 0.99 * 2**-12 - 1.01 * 2**-13]],
        dtype=torch.float64,
    ),
    "uint8": uniform(1, 127),
}


@pytest.mark.parametrize("encoding", NAMES)
def test_the_worst_error_is_not_stated_much_too_high(encoding):
    error = largest_error(HARD_LABELS[encoding], encoding)
    assert worst_error(encoding) / 4 < error <= worst_error(encoding)


@pytest.mark.parametrize("encoding", NAMES)
@given(labels=soft_labels())
def test_decoded_rows_are_float32_and_sum_to_one(encoding, labels):
    decoded = through(labels, encoding)
    assert decoded.dtype == torch.float32
    assert ((decoded.double().sum(dim=1) - 1).abs() < 1e-6).all()


@given(labels=soft_labels())
def test_float32_changes_no_bit_of_a_float32_label(labels):
    assert torch.equal(through(labels, "float32"), labels)


@pytest.mark.parametrize("encoding", LOSSLESS_AGAIN)
@given(labels=soft_labels())
def test_encoding_a_decoded_label_again_gives_the_same_bytes(encoding, labels):
    rows = encode_labels(labels, encoding)
    decoded = decode_labels(rows, labels.shape[1], encoding)
    assert np.array_equal(encode_labels(decoded, encoding), rows)


# Not the same bytes: dividing by the sum leaves the grid of float16 values.
@given(labels=soft_labels())
def test_encoding_a_decoded_float16_label_again_adds_one_worst_error_at_most(labels):
    decoded = through(labels, "float16")
    assert ((through(decoded, "float16") - decoded).abs() <= worst_error("float16")).all()


@given(labels=soft_labels())
def test_uint8_rows_share_out_255_units(labels):
    assert (encode_labels(labels, "uint8").sum(axis=1) == 255).all()


@pytest.mark.parametrize(("encoding", "size"), [("float32", 40), ("float16", 20), ("uint8", 10)])
def test_a_label_takes_the_bytes_that_are_stated(encoding, size):
    assert row_bytes(10, encoding) == size
    assert encode_labels(uniform(3, 10), encoding).nbytes == 3 * size


@pytest.mark.parametrize("encoding", NAMES)
def test_no_labels_are_no_bytes_and_come_back_as_no_labels(encoding):
    rows = encode_labels(torch.zeros(0, 10), encoding)
    assert rows.tobytes() == b""
    assert decode_labels(parse_rows(b"", 0, 10, encoding), 10, encoding).shape == (0, 10)


@pytest.mark.parametrize("encoding", NAMES)
def test_labels_read_from_bytes_are_those_written(encoding):
    rows = encode_labels(one_hot(5, 4), encoding)
    assert np.array_equal(parse_rows(rows.tobytes(), 5, 4, encoding), rows)


@pytest.mark.parametrize("length", [0, 39, 41, 60])
def test_bytes_that_are_not_as_many_labels_as_promised_are_refused(length):
    with pytest.raises(MessageError, match=rf"{length} bytes, expected 2 labels of 10 classes .* = 40 bytes"):
        parse_rows(bytes(length), 2, 10, "float16")


BAD_ROWS = {
    "not a number": ([0.5, float("nan")], "not all values are finite"),
    "infinite": ([0.5, float("inf")], "not all values are finite"),
    "negative": ([1.5, -0.5], "negative"),
    "sum too small": ([0.5, 0.49], "sum to 1"),
    "sum too large": ([0.5, 0.51], "sum to 1"),
    "all zero": ([0.0, 0.0], "sum to 1"),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize(("encoding", "dtype"), [("float32", "<f4"), ("float16", "<f2")])
def test_one_row_that_is_no_distribution_makes_the_labels_refused(encoding, dtype, row, message):
    wire = np.array([[0.5, 0.5], row], dtype=dtype).view(np.uint8)
    with pytest.raises(MessageError, match=message):
        decode_labels(wire, 2, encoding)


@pytest.mark.parametrize("units", [[127, 127], [128, 128], [0, 0]])
def test_a_row_of_other_than_255_units_is_refused(units):
    with pytest.raises(MessageError, match="sum to 1"):
        decode_labels(np.array([units], dtype=np.uint8), 2, "uint8")


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("encoding", NAMES)
def test_predictions_of_a_diverged_network_are_refused(encoding):
    with pytest.raises(MessageError):
        through(torch.full((1, 3), float("nan")), encoding)


# --- sets of indices ---------------------------------------------------------------------------------


def indices_of(values):
    return np.array(sorted(values), dtype=np.int64)


@st.composite
def index_sets(draw):
    """A pool's size and some of its indices, from none to all of them."""
    size = draw(st.integers(1, 5000))
    share = draw(st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.5, 0.9, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return size, np.flatnonzero(random.random(size) < share)


@given(index_sets())
@example((1, indices_of([])))
@example((1, indices_of([0])))
@example((5000, indices_of([4999])))
def test_index_sets_are_read_as_they_were_written(pool_and_indices):
    size, indices = pool_and_indices
    read = decode_indices(encode_indices(indices, size), size)
    assert read.dtype == np.int64
    assert np.array_equal(read, indices)


@given(index_sets())
def test_an_index_set_never_takes_more_than_a_bitmap_and_its_mark(pool_and_indices):
    size, indices = pool_and_indices
    assert len(encode_indices(indices, size)) <= 1 + -(-size // 8)


def test_few_indices_are_written_as_distances():
    assert encode_indices(indices_of([3, 200, 201]), 5000) == b"d" + bytes([3, 0b1100_0100, 1, 0])


def test_many_indices_are_written_as_a_bitmap():
    assert encode_indices(indices_of(range(1, 10)), 10) == b"b" + bytes([0b0111_1111, 0b1100_0000])


# Of a pool of 16 a bitmap takes 2 bytes.
@pytest.mark.parametrize(("indices", "form"), [([0, 15], b"d"), ([0, 1, 15], b"b")])
def test_the_shorter_form_is_taken_and_distances_where_both_are_as_short(indices, form):
    assert encode_indices(indices_of(indices), 16)[:1] == form


def test_no_indices_take_one_byte():
    assert encode_indices(indices_of([]), 5000) == b"d"


BAD_INDICES = {
    "nothing": (b"", "unknown form"),
    "unknown form": (b"x\x00", "unknown form"),
    "bitmap too short": (b"b\xff", "unknown form"),
    "bitmap too long": (b"b\xff\xff\xff", "unknown form"),
    "bit beyond the pool": (b"b\x00\x20", "below the pool's size 10"),
    "distance beyond the pool": (b"d\x0a", "below the pool's size 10"),
    "sum beyond the pool": (b"d\x05\x05", "below the pool's size 10"),
    "number cut off": (b"d\x01\x80", "cut off"),
    "number too long": (b"d" + b"\x80" * 9 + b"\x01", "too long"),
    "overflow at once": (b"d" + b"\xff" * 8 + b"\x7f", "below the pool's size 10"),
    "overflow twice, back into the pool": (
        b"d\x01" + 2 * (b"\xff" * 8 + b"\x7f") + b"\x02",
        "below the pool",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD_INDICES.values(), ids=BAD_INDICES)
def test_bytes_that_are_no_index_set_of_the_pool_are_refused(data, message):
    with pytest.raises(MessageError, match=message):
        decode_indices(data, 10)


@given(st.sampled_from([b"", b"d", b"b"]), st.binary(max_size=30), st.integers(1, 250))
def test_any_bytes_are_refused_or_read_as_ascending_unique_indices_of_the_pool(kind, body, size):
    try:
        indices = decode_indices(kind + body, size)
    except MessageError:
        return
    assert np.array_equal(indices, np.unique(indices))
    assert all(0 <= index < size for index in indices)
