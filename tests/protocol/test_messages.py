import dataclasses
import math
import string
import types
from io import BytesIO
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MessageError
from protocol.messages import Evaluation, HelloReply, HelloRequest, experiment_of, mark_reply, unmark_reply
from strategies.individual import LocalReply, LocalRequest
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from strategies.submodels.messages import SliceReply, SliceRequest
from strategies.weights.messages import WeightsReply, WeightsRequest

PAYLOADS = (
    HelloRequest,
    HelloReply,
    LocalRequest,
    LocalReply,
    WeightsRequest,
    WeightsReply,
    SliceRequest,
    SliceReply,
    SoftLabelRequest,
    SoftLabelReply,
)

# --- examples of every payload, made from its field types -------------------------------------------

DTYPES = (torch.float32, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)


@st.composite
def tensors(draw):
    """Tensors of any bits, NaN and -0.0 among them."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(shape) * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        data = bytearray(byte & 1 for byte in data)
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if size else torch.zeros(shape, dtype=dtype)


weights = st.dictionaries(
    st.text(string.ascii_letters + "._0é", min_size=1, max_size=8), tensors(), max_size=3
)

EXAMPLES = {
    str: st.text(max_size=20),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bytes: st.binary(max_size=50),
    types.NoneType: st.none(),
}


def kinds(hint):
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def field_hints(payload):
    hints = get_type_hints(payload)
    return {field.name: hints[field.name] for field in dataclasses.fields(payload)}


NAMED = {
    "weights": weights,
    "round": st.integers(1, 999_999),
    "trained_on": st.integers(1, 2**29 - 1),
    "client": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
}


def examples(payload):
    fields = {
        name: NAMED.get(
            name, st.one_of([EXAMPLES[kind] for kind in kinds(hint)] if name not in NAMED else [])
        )
        for name, hint in field_hints(payload).items()
    }
    return st.builds(payload, **fields)


def some(payload):
    """Return one payload, with every optional field."""
    values = {str: "text", bool: True, int: 3, float: 0.5, bytes: b"bytes"}
    fields = {name: values.get(kinds(hint)[0]) for name, hint in field_hints(payload).items()}
    if "weights" in fields:
        fields["weights"] = {"layer": torch.ones(2)}
    return payload(**fields)


def over_the_wire(record):
    return recorddict_from_proto(recorddict_to_proto(record))


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


def content(payload):
    """Return a payload's fields, tensors as their bits (a NaN equals itself)."""
    fields = dict(vars(payload))
    if "weights" in fields:
        fields["weights"] = {name: bits(tensor) for name, tensor in fields["weights"].items()}
    return fields


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
@given(data=st.data())
def test_a_payload_is_read_as_it_was_written(payload, data):
    sent = data.draw(examples(payload))
    assert content(payload.from_record(over_the_wire(sent.to_record()))) == content(sent)


# --- fields ------------------------------------------------------------------------------------------

WRONG_VALUES = {str: "text", bool: True, int: 3, float: 0.5, bytes: b"bytes"}
FIELDS = [(payload, name) for payload in PAYLOADS for name in field_hints(payload) if name != "weights"]
REQUIRED = [(p, name) for p, name in FIELDS if types.NoneType not in kinds(field_hints(p)[name])]
OPTIONAL = [(p, name) for p, name in FIELDS if types.NoneType in kinds(field_hints(p)[name])]
WRONG_TYPES = [
    (payload, name, value)
    for payload, name in FIELDS
    for kind, value in WRONG_VALUES.items()
    if kind not in kinds(field_hints(payload)[name])
]


def changed(payload, **fields):
    """Return the record of a payload with fields replaced, or without them where they are ``None``."""
    record = some(payload).to_record()
    together = {**record["fields"], **fields}
    record["fields"] = ConfigRecord({key: value for key, value in together.items() if value is not None})
    return record


@pytest.mark.parametrize(("payload", "name"), REQUIRED)
def test_a_missing_field_is_named(payload, name):
    with pytest.raises(MessageError, match=rf"{payload.__name__}\.{name}\b"):
        payload.from_record(changed(payload, **{name: None}))


@pytest.mark.parametrize(("payload", "name"), OPTIONAL)
def test_an_optional_field_that_is_none_does_not_travel(payload, name):
    record = dataclasses.replace(some(payload), **{name: None}).to_record()
    assert name not in record["fields"]
    assert getattr(payload.from_record(record), name) is None


@pytest.mark.parametrize(("payload", "name", "value"), WRONG_TYPES)
def test_a_field_of_another_type_is_named_with_both_types(payload, name, value):
    with pytest.raises(MessageError, match=rf"{payload.__name__}\.{name}: .*, got {type(value).__name__}"):
        payload.from_record(changed(payload, **{name: value}))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_unknown_field_is_named(payload):
    with pytest.raises(MessageError, match=f"{payload.__name__}: unknown field 'surprise'"):
        payload.from_record(changed(payload, surprise=1))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_record_without_fields_is_refused(payload):
    with pytest.raises(MessageError, match="'fields' is missing"):
        payload.from_record(RecordDict())


@pytest.mark.parametrize("payload", [WeightsRequest, WeightsReply, SliceRequest, SliceReply])
def test_a_record_without_weights_is_refused(payload):
    record = some(payload).to_record()
    del record["weights"]
    with pytest.raises(MessageError, match="'weights' is missing"):
        payload.from_record(record)


# --- experiments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["2026-01-02T03-04-05-scarlet-digits", "a", "x" * 128])
def test_an_experiment_with_a_plain_name_is_read(experiment):
    assert experiment_of(HelloRequest(experiment).to_record()) == experiment


@pytest.mark.parametrize(
    "experiment", ["../x", "..", "", "/tmp", "a/b", ".hidden", "a\n", "x" * 129, 3, b"a"]
)
def test_an_experiment_that_is_no_plain_name_is_refused(experiment):
    record = RecordDict({"fields": ConfigRecord({"experiment": experiment})})
    with pytest.raises(MessageError, match=r"experiment: .* is not a plain name"):
        experiment_of(record)


@pytest.mark.parametrize("client", ["../x", "", "a/b", ".hidden"])
def test_a_client_that_has_no_plain_name_is_refused(client):
    record = HelloReply("name", True, "cnn", "pool", "code", b"").to_record()
    record["fields"]["client"] = client
    with pytest.raises(MessageError, match=r"client: .* is not a plain name"):
        HelloReply.from_record(record)


def test_a_request_without_an_experiment_is_refused():
    with pytest.raises(MessageError, match="experiment"):
        experiment_of(RecordDict({"fields": ConfigRecord({"round": 1})}))


# --- evaluations -------------------------------------------------------------------------------------


def test_a_reply_s_evaluation_is_what_it_says():
    evaluation = LocalReply(accuracy=0.25, loss=1.5, examples=40).evaluation
    assert evaluation == Evaluation(0.25, 1.5, 40, metric=None)


@pytest.mark.parametrize("reply", [LocalReply, WeightsReply, SliceReply, SoftLabelReply])
def test_every_reply_carries_a_metric_where_there_is_one(reply):
    evaluation = Evaluation(0.25, 1.5, 40, 0.75)
    sent = dataclasses.replace(some(reply), **vars(evaluation))
    assert reply.from_record(over_the_wire(sent.to_record())).evaluation == evaluation


def test_a_reply_without_a_metric_is_not_longer_for_it():
    assert list(LocalReply(0.25, 1.5, 40).to_record()["fields"]) == ["accuracy", "loss", "examples"]


@pytest.mark.parametrize("metric", [-1.0, 0.0, 1.0, 250.0])
def test_a_metric_may_be_any_finite_number_for_only_the_run_knows_its_bounds(metric):
    assert LocalReply(0.5, 1.0, 40, metric=metric).evaluation.metric == metric


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf])
def test_an_impossible_metric_is_refused(metric):
    with pytest.raises(MessageError, match=r"metric = .*: must be finite"):
        _ = LocalReply(0.5, 1.0, 40, metric=metric).evaluation


@pytest.mark.parametrize(
    "figures",
    [
        (math.nan, 1.0, 40),
        (0.5, math.nan, 40),
        (0.5, math.inf, 40),
        (-0.1, 1.0, 40),
        (1.1, 1.0, 40),
        (0.5, 1.0, 0),
        (0.5, 1.0, -1),
        (0.5, 1.0, 2**29),
        (0.5, -1.0, 40),
        (0.5, 1e308, 40),
    ],
)
def test_an_impossible_evaluation_is_refused(figures):
    with pytest.raises(MessageError, match=r"(accuracy|examples) = "):
        _ = LocalReply(*figures).evaluation


@pytest.mark.parametrize("trained_on", [0, -5, 2**29, 2**63 - 1])
def test_an_impossible_number_of_samples_is_refused(trained_on):
    record = WeightsReply(0.5, 1.0, 4, 7, {}).to_record()
    record["fields"]["trained_on"] = trained_on
    with pytest.raises(MessageError, match="trained_on = "):
        WeightsReply.from_record(record)


@pytest.mark.parametrize("round", [0, -1, 1_000_000, 2**40])
def test_a_request_for_an_impossible_round_is_refused(round):
    record = LocalRequest("experiment", 1).to_record()
    record["fields"]["round"] = round
    with pytest.raises(MessageError, match="round = "):
        LocalRequest.from_record(record)


# --- weights -----------------------------------------------------------------------------------------


def test_weights_that_are_transposed_or_need_gradients_travel():
    matrix = torch.arange(6.0).reshape(2, 3).requires_grad_()
    read = WeightsRequest.from_record(WeightsRequest("e", 1, {"w": matrix.T}).to_record())
    assert torch.equal(read.weights["w"], matrix.T)


def test_weights_that_were_read_can_be_trained_on():
    read = WeightsRequest.from_record(some(WeightsRequest).to_record())
    read.weights["layer"].mul_(2)
    assert read.weights["layer"].tolist() == [2.0, 2.0]


def saved(array, save=np.save, **options):
    file = BytesIO()
    save(file, array, **options)
    return file.getvalue()


GOOD = saved(np.ones((3, 4), dtype=np.float32))
BAD_ARRAYS = {
    "nothing": b"",
    "no array": b"no array at all",
    "cut off in the header": GOOD[:40],
    "cut off in the values": GOOD[:-1],
    "bracket missing": GOOD.replace(b"(3, 4)", b"(3, 4 "),
    "syntax error": GOOD.replace(b"'<f4'", b"','04"),
    "header that is not text": GOOD.replace(b"'descr'", b"\x9adescr'"),
    "more values than memory": GOOD.replace(b"(3, 4), }" + b" " * 15, b"(3, 4" + b"0" * 15 + b"), }"),
    "more values than numbers": GOOD.replace(b"(3, 4), }" + b" " * 25, b"(3, 4" + b"0" * 25 + b"), }"),
    "start of a zip file": b"PK\x03\x04",
    "archive of arrays": saved(np.ones(3), np.savez),
    "pickle": saved(np.array([None]), allow_pickle=True),
    "text": saved(np.array(["a"])),
    "wrong byte order": saved(np.ones(3, dtype=">f4")),
    "table": saved(np.zeros(2, dtype=[("a", "f4")])),
}


def read_array(data, stype="numpy.ndarray"):
    record = some(WeightsReply).to_record()
    record["weights"] = ArrayRecord({"layer": Array("float32", (3, 4), stype, data)})
    return WeightsReply.from_record(record)


@pytest.mark.parametrize("data", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bytes_that_are_no_array_are_refused(data):
    assert data != GOOD
    with pytest.raises(MessageError, match="'weights' cannot be read"):
        read_array(data)


def test_an_array_of_another_serialisation_is_refused():
    with pytest.raises(MessageError, match="'weights' cannot be read"):
        read_array(GOOD, stype="pickle")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning", "ignore::DeprecationWarning")
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_an_array_with_one_byte_changed_is_read_or_refused(place, difference):
    data = bytearray(GOOD)
    data[place] ^= difference
    try:
        reply = read_array(bytes(data))
    except MessageError:
        return
    assert isinstance(reply.weights["layer"], torch.Tensor)


# --- the round that a reply answers -------------------------------------------------------------------

REQUEST = LocalRequest("experiment", 7).to_record()
REPLIES = [kind for kind in PAYLOADS if kind.__name__.endswith("Reply") and kind is not HelloReply]


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_of_the_round_comes_out_as_it_was(kind):
    reply = some(kind).to_record()
    assert unmark_reply(mark_reply(reply, REQUEST), 7) == reply


def test_a_reply_of_another_round_is_refused():
    reply = mark_reply(some(LocalReply).to_record(), REQUEST)
    with pytest.raises(MessageError, match="it answers round 7, not round 9"):
        unmark_reply(reply, 9)


def test_a_reply_of_no_round_is_refused():
    with pytest.raises(MessageError, match="it answers round None, not round 7"):
        unmark_reply(some(LocalReply).to_record(), 7)


@pytest.mark.parametrize("record", [RecordDict(), HelloRequest("experiment").to_record()])
def test_only_what_a_round_asks_for_is_marked(record):
    with pytest.raises(MessageError):
        mark_reply(some(LocalReply).to_record(), record)
