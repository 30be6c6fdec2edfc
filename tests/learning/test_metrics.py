import pytest
import torch

from learning.metrics import METRICS, figures, mean, metric_of
from learning.training import score_logits
from protocol.messages import Evaluation


def of_second_class(*probabilities):
    second = torch.tensor(probabilities)
    return torch.stack([1 - second, second], dim=1)


def answers(*classes, count=3):
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


# --- area under the ROC curve --------------------------------------------------------------------


def test_the_area_of_two_classes_is_the_share_of_pairs_in_the_right_order():
    """Of the four pairs one from each class, 0.35 stands below 0.4 and so one is wrong."""
    targets = torch.tensor([0, 0, 1, 1])
    assert METRICS["auroc"](of_second_class(0.1, 0.4, 0.35, 0.8), targets) == pytest.approx(0.75)
    assert METRICS["auroc"](of_second_class(0.1, 0.2, 0.7, 0.8), targets) == 1.0
    assert METRICS["auroc"](of_second_class(0.9, 0.8, 0.2, 0.1), targets) == 0.0


def test_pairs_that_are_level_count_half():
    assert METRICS["auroc"](of_second_class(0.5, 0.5, 0.5), torch.tensor([0, 1, 1])) == pytest.approx(0.5)


def test_the_area_of_many_classes_is_the_plain_mean_of_each_against_the_rest():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.4, 0.5, 0.1], [0.2, 0.2, 0.6]])
    targets = torch.tensor([0, 0, 1, 2])
    first = (4 - 1) / 4  # of its pairs with the rest only (0.3, 0.4) is wrong
    assert METRICS["auroc"](probabilities, targets) == pytest.approx((first + 1 + 1) / 3)


def test_a_class_that_no_sample_has_is_passed_over():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0], [0.3, 0.4, 0.3]])
    targets = torch.tensor([0, 1, 1])
    assert METRICS["auroc"](probabilities, targets) == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_samples_of_one_class_have_no_area(classes):
    probabilities = torch.full((4, classes), 1 / classes)
    for only in range(classes):
        assert METRICS["auroc"](probabilities, torch.full((4,), only)) is None


# --- quadratic weighted kappa --------------------------------------------------------------------


def test_kappa_is_one_minus_disagreement_over_that_of_chance():
    """The squared distances are 1/4 in the mean, and 1.25 if answers were drawn without looking."""
    found = METRICS["kappa"](answers(0, 1, 1, 2), torch.tensor([0, 0, 1, 2]))
    assert found == pytest.approx(1 - 0.25 / 1.25)


def test_kappa_is_1_for_right_answers_minus_1_for_reversed_and_0_for_a_constant():
    targets = torch.tensor([0, 1, 2])
    assert METRICS["kappa"](answers(0, 1, 2), targets) == 1.0
    assert METRICS["kappa"](answers(2, 1, 0), targets) == -1.0
    assert METRICS["kappa"](answers(1, 1, 1), targets) == 0.0


def test_kappa_minds_how_far_off_an_answer_is():
    targets = torch.tensor([0, 1, 2, 3, 0])
    near, far = (METRICS["kappa"](answers(0, 1, 2, 3, last, count=4), targets) for last in (1, 3))
    assert near > far


def test_kappa_of_a_client_that_lacks_classes_keeps_their_distance():
    """Classes 0 and 3 are as far apart as they are in the federation, with or without samples between."""
    targets = torch.tensor([0, 0, 3, 3])
    assert METRICS["kappa"](answers(0, 1, 3, 3, count=4), targets) > 0.9


def test_kappa_is_not_defined_where_all_targets_and_answers_are_one_class():
    assert METRICS["kappa"](answers(1, 1, 1), torch.tensor([1, 1, 1])) is None
    assert METRICS["kappa"](answers(1, 0, 1), torch.tensor([1, 1, 1])) == 0.0


# --- the rest ------------------------------------------------------------------------------------


def test_a_run_without_a_metric_has_none():
    assert metric_of("none") is None


def test_an_evaluation_carries_the_metric_of_its_logits():
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])
    assert score_logits(logits, targets).metric is None
    assert score_logits(logits, targets, METRICS["auroc"]).metric == 1.0


def test_sure_answers_are_still_told_apart():
    """Both probabilities are 1 in float32."""
    logits, targets = torch.tensor([[0.0, 20.0], [0.0, 25.0]]), torch.tensor([0, 1])
    assert score_logits(logits, targets, METRICS["auroc"]).metric == 1.0


def test_the_mean_passes_over_what_is_not_defined():
    assert mean([(0.5, 1), (None, 100), (0.8, 2)]) == pytest.approx(0.7)
    assert mean([(None, 3)]) is None
    assert mean([]) is None


def test_a_line_holds_the_metric_only_if_the_run_has_one():
    evaluation = Evaluation(0.5, 1.0, 4, 0.75)
    assert figures(evaluation, None) == {"accuracy": 0.5, "loss": 1.0}
    assert figures(evaluation, METRICS["kappa"]) == {"accuracy": 0.5, "loss": 1.0, "metric": 0.75}
    assert figures(None, None) == {"accuracy": None, "loss": None}
    assert figures(None, METRICS["auroc"]) == {"accuracy": None, "loss": None, "metric": None}
