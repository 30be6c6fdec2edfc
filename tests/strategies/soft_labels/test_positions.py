import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encodings import encode_indices
from protocol.errors import MessageError
from strategies.soft_labels.cache import LabelsInUse
from strategies.soft_labels.messages import SoftLabelRequest
from strategies.soft_labels.positions import Positions

POOL = 50


def index_sets(size):
    """Ascending indices below ``size``, the empty and the full set among them."""
    every = list(range(size))
    some = st.sets(st.sampled_from(every)).map(sorted) if every else st.just([])
    return st.one_of(some, st.just(every)).map(lambda chosen: np.array(chosen, dtype=np.int64))


@st.composite
def positions(draw, pool_size=POOL):
    indices = draw(index_sets(pool_size))
    alike = st.integers(1, 2**31 - 1).map(lambda version: [version] * len(indices))
    mixed = st.lists(st.integers(1, 2**31 - 1), min_size=len(indices), max_size=len(indices))
    versions = np.array(draw(st.one_of(alike, mixed)), dtype=np.int32)
    return Positions(
        LabelsInUse(indices, versions), draw(index_sets(len(indices))), draw(index_sets(pool_size))
    )


def request(**fields):
    return SoftLabelRequest("experiment", 3, b"", bytes(8), bytes(8), **fields)


def some_positions(count=4, versions=(2, 2, 1, 2)):
    in_use = LabelsInUse(np.arange(10, 10 + count), np.array(versions[:count], dtype=np.int32))
    return Positions(in_use, np.array([0, 2]), np.array([5, 6]))


@pytest.mark.slow
@given(positions())
def test_explicit_positions_are_read_as_they_were_written(written):
    fields = request(**written.as_fields(POOL))

    read = Positions.from_request(SoftLabelRequest.from_record(fields.to_record()), POOL)

    assert np.array_equal(read.in_use.indices, written.in_use.indices)
    assert np.array_equal(read.in_use.versions, written.in_use.versions)
    assert np.array_equal(read.sent, written.sent)
    assert np.array_equal(read.requested, written.requested)


def test_versions_that_are_all_alike_travel_as_one():
    assert len(some_positions(versions=(7, 7, 7, 7)).as_fields(POOL)["used_versions"]) == 4
    assert len(some_positions(versions=(7, 7, 8, 7)).as_fields(POOL)["used_versions"]) == 16


def test_which_labels_are_sent_does_not_travel_where_all_are():
    everything = Positions(some_positions().in_use, np.arange(4), np.array([5]))

    assert everything.as_fields(POOL)["sent"] is None


def test_a_request_without_positions_leaves_them_to_be_implied():
    assert Positions.from_request(request(), POOL) is None


MALFORMED = {
    "no samples for which labels are in use": {"used": None},
    "no samples requested": {"requested": None},
    "no versions": {"used_versions": None},
    "fewer versions than labels": {"used_versions": bytes(8)},
    "more versions than labels": {"used_versions": bytes(20)},
    "half a version": {"used_versions": bytes(6)},
    "a sample in use beyond the pool": {"used": encode_indices(np.array([1, 2, 3, POOL]), POOL + 1)},
    "a requested sample beyond the pool": {"requested": encode_indices(np.array([POOL]), POOL + 1)},
    "a label sent that is not in use": {"sent": encode_indices(np.array([4]), 5)},
    "samples in use of unknown form": {"used": b"x"},
    "requested samples of unknown form": {"requested": b""},
    "a cut off number": {"requested": b"d\xff"},
    "a bitmap of another pool": {"used": b"b" + bytes(POOL)},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_positions_are_refused(changes):
    fields = {**some_positions().as_fields(POOL), **changes}

    with pytest.raises(MessageError):
        Positions.from_request(request(**fields), POOL)


@given(
    st.binary(max_size=20), st.binary(max_size=20), st.none() | st.binary(max_size=20), st.binary(max_size=20)
)
def test_foreign_bytes_are_read_as_positions_in_the_pool_or_refused(used, versions, sent, requested):
    try:
        read = Positions.from_request(
            request(used=used, used_versions=versions, sent=sent, requested=requested), POOL
        )
    except MessageError:
        return
    for indices, size in (
        (read.in_use.indices, POOL),
        (read.sent, len(read.in_use.indices)),
        (read.requested, POOL),
    ):
        assert (np.diff(indices) > 0).all()
        assert ((indices >= 0) & (indices < size)).all()
    assert len(read.in_use.versions) == len(read.in_use.indices)
