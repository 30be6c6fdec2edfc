import pytest
import torch
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from protocol.ledger import Traffic, soft_label_paper_up, wire_bytes
from protocol.messages import TRAIN
from simulation.grid import FIRST_NODE
from simulation.messages import task_identity
from strategies.soft_labels.dsfl import dsfl_paper_down, dsfl_paper_exchange
from strategies.soft_labels.messages import SoftLabelRequest
from strategies.soft_labels.scarlet import scarlet_paper_down
from strategies.weights.messages import WeightsRequest


@pytest.fixture(autouse=True)
def _identity():
    with task_identity():
        yield


def message(payload):
    return Message(payload.to_record(), dst_node_id=FIRST_NODE, message_type=TRAIN)


def labels_message(size):
    return message(SoftLabelRequest("run-1", 3, bytes(size), bytes(8), bytes(8)))


def weights_message(*tensors):
    return message(WeightsRequest("run-1", 3, {f"layer{i}": tensor for i, tensor in enumerate(tensors)}))


# --- as the paper counts -----------------------------------------------------------------------------


def test_predictions_up_cost_a_float_a_class_and_an_index():
    assert soft_label_paper_up(predicted=7, classes=10) == 7 * (4 * 10 + 8)


def test_scarlet_down_costs_requested_indices_sent_labels_and_the_subset_s_indices_and_signals():
    paper = scarlet_paper_down(requested=3, sent=5, caught_up=0, subset=1000, classes=10)
    assert paper == 8 * 3 + 4 * 10 * 5 + 16 * 1000


def test_scarlet_s_catch_up_costs_a_label_and_an_index_each():
    without, with_two = (scarlet_paper_down(3, 5, caught_up, 1000, 10) for caught_up in (0, 2))
    assert with_two - without == 2 * (8 + 4 * 10)


def test_dsfl_down_costs_the_request_and_labels_with_their_indices():
    assert dsfl_paper_down(requested=1000, sent=900, classes=10) == 8 * 1000 + 900 * (4 * 10 + 8)


def test_a_dsfl_exchange_costs_104000_bytes_at_10_classes_and_1000_samples():
    assert dsfl_paper_exchange(subset=1000, classes=10) == 104_000


def test_traffic_adds_up_direction_by_direction():
    assert Traffic(1, 2, 3, 4) + Traffic(10, 20, 30, 40) == Traffic(11, 22, 33, 44)


def test_traffic_sums_both_directions_of_each_counting():
    traffic = Traffic(paper_up=1, paper_down=2, wire_up=30, wire_down=40)
    assert (traffic.paper, traffic.wire) == (3, 70)


# --- as it is serialised -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: labels_message(1000), lambda: weights_message(torch.ones(3), torch.zeros(2, 2))]
)
def test_wire_bytes_are_the_deflated_objects_of_the_message(make):
    sent = make()
    objects = get_all_nested_objects(sent)
    assert sent.object_id in objects
    assert wire_bytes(sent) == sum(len(part.deflate()) for part in objects.values())


# 1,000 and 9,000 are written in as many digits and length bytes, so nothing else grows.
def test_wire_bytes_grow_by_the_bytes_of_the_labels():
    assert wire_bytes(labels_message(9000)) - wire_bytes(labels_message(1000)) == 8000


def test_wire_bytes_grow_by_the_bytes_of_the_weights():
    small, large = (weights_message(torch.rand(size)) for size in (500, 900))
    assert wire_bytes(large) - wire_bytes(small) == 400 * 4


def test_a_message_without_labels_costs_a_few_hundred_bytes():
    assert 0 < wire_bytes(labels_message(0)) < 600
