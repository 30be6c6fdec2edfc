import pytest

from protocol.messages import Evaluation
from server_app.round_report import RoundReport


def report(levels=None, **evaluations):
    return RoundReport(1, sorted(evaluations), dict(evaluations), levels=levels or {})


def test_clients_count_as_often_as_they_have_samples():
    mean = report(ada=Evaluation(1.0, 0.5, 10), ben=Evaluation(0.5, 1.5, 30)).clients
    assert mean == Evaluation(pytest.approx(0.625), pytest.approx(1.25), 40)


def test_the_metric_is_that_of_the_clients_that_have_one():
    mean = report(
        ada=Evaluation(1.0, 0.5, 10, 0.5), ben=Evaluation(0.5, 1.5, 30, 0.9), cem=Evaluation(0.5, 1.5, 60)
    ).clients
    assert mean.metric == pytest.approx((10 * 0.5 + 30 * 0.9) / 40)
    assert mean.examples == 100


def test_where_no_client_has_a_metric_there_is_none():
    assert report(ada=Evaluation(1.0, 0.5, 10)).clients.metric is None


def test_without_an_answer_there_are_no_figures():
    assert report().clients is None


def test_levels_have_means_of_their_own():
    by_level = report(
        {"ada": 1, "ben": 1, "cem": 2},
        ada=Evaluation(1.0, 0.5, 10, 0.5),
        ben=Evaluation(0.5, 0.5, 10),
        cem=Evaluation(0.25, 0.5, 10, 0.75),
    ).clients_by_level
    assert by_level == {1: (2, Evaluation(0.75, 0.5, 20, 0.5)), 2: (1, Evaluation(0.25, 0.5, 10, 0.75))}
