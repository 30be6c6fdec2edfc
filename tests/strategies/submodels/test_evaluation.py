import pytest
import torch
from torch import nn

from data import Samples
from data.inputs import TensorInputs
from learning.metrics import METRICS
from models.elastic import ElasticNetwork
from protocol.messages import Evaluation
from strategies.submodels.evaluation import THRESHOLDS, early_exit, mean_evaluation, score_exits

MACS = (10, 30, 100)
TARGETS = torch.tensor([0, 1, 1, 0])
# Three exits, four samples, two classes; the first class's probability.
FIRST_CLASS = torch.tensor([[0.9, 0.6, 0.5, 0.55], [0.3, 0.2, 0.7, 0.8], [0.6, 0.4, 0.9, 0.4]])
PROBABILITIES = torch.stack([FIRST_CLASS, 1 - FIRST_CLASS], dim=2)


def answered(threshold):
    return early_exit(PROBABILITIES, TARGETS, MACS, threshold)


def test_without_a_threshold_every_sample_is_answered_at_the_first_exit():
    # It says 0 to all four (0.5 is a tie, which the first class wins): two are right.
    assert answered(0.0) == {"threshold": 0.0, "accuracy": 0.5, "flops": 10.0}


def test_above_one_every_sample_goes_to_the_last_exit():
    # It says 0, 1, 0, 1: the first two are right.
    assert answered(1.1) == {"threshold": 1.1, "accuracy": 0.5, "flops": 100.0}


def test_a_sample_is_answered_at_the_first_exit_that_is_sure():
    # At 0.8: sample 0 at exit 1 (says 0), 1 at exit 2 (1), 2 at exit 3 (0), 3 at exit 2 (0).
    point = answered(0.8)
    assert point["accuracy"] == 0.75
    assert point["flops"] == (10 + 30 + 100 + 30) / 4


def test_a_sample_that_no_exit_is_sure_of_is_answered_at_the_last():
    unsure = torch.full((3, 1, 2), 0.5)
    unsure[2, 0] = torch.tensor([0.4, 0.6])
    assert early_exit(unsure, torch.tensor([1]), MACS, 0.9) == {
        "threshold": 0.9,
        "accuracy": 1.0,
        "flops": 100.0,
    }


class Says(nn.Module):
    """A head that answers the same logits, for a class each, to every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, features):
        return self.logits.expand(len(features), -1)


def scored(*heads, metric=None):
    network = ElasticNetwork(nn.Identity(), [nn.Identity() for _ in heads], dict(enumerate(heads, start=1)))
    samples = Samples(TensorInputs(torch.zeros(4, 1, 2, 2)), torch.tensor([0, 1, 1, 2]))
    return score_exits(network, samples, MACS, metric)


def test_every_exit_is_scored_on_its_own():
    scores = scored(Says(1.0, 0.0, 0.0), Says(0.0, 1.0, 0.0), Says(0.0, 0.0, 1.0))
    assert scores.exits == (0.25, 0.5, 0.25)


def test_the_exits_together_answer_by_their_mean_probability():
    """Two weak voices for class 0 are outweighed by a strong one for class 1."""
    scores = scored(Says(0.2, 0.0, 0.0), Says(0.2, 0.0, 0.0), Says(0.0, 9.0, 0.0))
    assert scores.ensemble == 0.5


def test_early_exits_are_scored_at_every_threshold():
    scores = scored(Says(1.0, 0.0, 0.0), Says(0.0, 1.0, 0.0), Says(0.0, 0.0, 1.0))
    assert [point["threshold"] for point in scores.early] == list(THRESHOLDS)
    costs = [point["flops"] for point in scores.early]
    assert costs == sorted(costs)
    details = scores.as_details()
    assert details["early_exit"] == [dict(point) for point in scores.early]
    assert (details["exits"], details["ensemble"]) == (list(scores.exits), scores.ensemble)


def test_ordered_classes_are_graded_at_every_exit_and_together():
    """Two weak voices for class 0 are outweighed by a strong one for class 1; the classes are 0, 1, 1, 2."""
    weak, strong = Says(0.2, 0.0, 0.0), Says(0.0, 9.0, 0.0)
    scores = scored(weak, weak, strong, metric=METRICS["kappa"])
    assert [exit_.mean_absolute_error for exit_ in scores.grades.exits] == [1.0, 1.0, 0.5]
    assert scores.grades.ensemble == scores.grades.exits[2]
    assert scores.as_details()["grades"] == scores.grades.as_details()
    assert scores.grades_of_last() == {"grades": scores.grades.exits[2].as_details()}


@pytest.mark.parametrize("metric", [None, METRICS["auroc"]], ids=["none", "auroc"])
def test_classes_whose_order_means_nothing_are_not_graded(metric):
    scores = scored(Says(0.2, 0.0, 0.0), metric=metric)
    assert scores.grades is None
    assert "grades" not in scores.as_details()
    assert scores.grades_of_last() == {}


def test_the_mean_evaluation_weighs_submodels_alike():
    mean = mean_evaluation([Evaluation(0.5, 1.0, 40, 0.5), Evaluation(0.75, 2.0, 40, 1.0)])
    assert mean == Evaluation(pytest.approx(0.625), pytest.approx(1.5), 40, pytest.approx(0.75))


def test_the_mean_evaluation_passes_over_submodels_without_a_metric():
    assert mean_evaluation([Evaluation(0.5, 1.0, 40, 0.5), Evaluation(0.75, 2.0, 40)]).metric == 0.5
    assert mean_evaluation([Evaluation(0.5, 1.0, 40)]).metric is None
