"""When the server scores its model, and when a run stops before its last round."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data import Samples
from data.inputs import TensorInputs
from protocol.messages import Evaluation
from protocol.settings import EarlyStoppingSettings
from server_app.hooks import EarlyStoppingHook, EvaluationHook
from server_app.round_record import Figures
from server_app.round_report import RoundReport
from server_app.rounds import RoundOutcome
from strategies.method import Score


def outcome(
    round: int, clients: float | None, server: float | None = None, final: bool = False
) -> RoundOutcome:
    report = RoundReport(round, ["a"])
    if clients is not None:
        report.evaluations["a"] = Evaluation(clients, 1.0, 10)
    figures = None if server is None else Evaluation(server, 1.0, 10)
    return RoundOutcome(report, final, server=figures)


def stops_after(accuracies: list[float | None], past: int = 0, **settings: Any) -> int | None:
    """Return the round after which a run with these accuracies of the clients is stopped."""
    outcomes = [outcome(number, accuracy) for number, accuracy in enumerate(accuracies, start=1)]
    hook = EarlyStoppingHook(EarlyStoppingSettings(**settings), [each.record() for each in outcomes[:past]])
    for each in outcomes[past:]:
        hook.after_round(each)
        if each.stop:
            return each.round
    return None


@pytest.mark.parametrize(
    ("accuracies", "patience", "last"),
    [
        ([0.5, 0.6, 0.6, 0.59, 0.7], 2, 4),
        ([0.5, 0.6, 0.6, 0.61, 0.6], 2, None),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 0, None),
        ([0.5, None, None], 2, 3),
        ([None, None, None], 2, None),
    ],
)
def test_it_stops_after_so_many_rounds_without_a_better_one(
    accuracies: list[float | None], patience: int, last: int | None
) -> None:
    assert stops_after(accuracies, patience=patience) == last


def test_a_resumed_run_remembers_its_best_round() -> None:
    assert stops_after([0.9, 0.5, 0.6, 0.7], past=2, patience=3) == 4


def test_a_run_that_was_over_is_over_when_resumed() -> None:
    past = [outcome(number, 0.5).record() for number in (1, 2, 3)]
    assert EarlyStoppingHook(EarlyStoppingSettings(patience=2), past).reason() == (
        "clients-accuracy has not improved for 2 rounds (best 0.5000 in round 1)"
    )
    assert EarlyStoppingHook(EarlyStoppingSettings(patience=3), past).reason() == ""


def test_the_servers_accuracy_can_be_watched_instead() -> None:
    hook = EarlyStoppingHook(EarlyStoppingSettings(patience=1, metric="server-accuracy"))
    results = [outcome(1, clients=0.1, server=0.8), outcome(2, clients=0.9, server=0.8)]
    for each in results:
        hook.after_round(each)
    assert [bool(each.stop) for each in results] == [False, True]


def test_the_final_exchange_does_not_count() -> None:
    hook = EarlyStoppingHook(EarlyStoppingSettings(patience=1))
    hook.after_round(outcome(1, 0.5))
    final = outcome(2, 0.5, final=True)
    hook.after_round(final)
    assert final.stop == ""


# --- evaluation --------------------------------------------------------------------------------

TEST = Samples(TensorInputs(torch.zeros(2, 1, 2, 2)), torch.zeros(2, dtype=torch.int64))


def scored_in(rounds: int, every: int, score: Score | None) -> list[RoundOutcome]:
    """Return the outcomes of a run whose server scores its model so."""
    method: Any = SimpleNamespace(score=lambda test: score if test is TEST else None)
    hook = EvaluationHook(method, TEST, every, rounds)
    outcomes = [outcome(number, 0.5) for number in range(1, rounds + 1)]
    for each in outcomes:
        hook.after_round(each)
    return outcomes


@pytest.mark.parametrize(
    ("rounds", "every", "scored"),
    [(4, 1, [1, 2, 3, 4]), (5, 2, [2, 4, 5]), (6, 3, [3, 6]), (2, 9, [2])],
)
def test_the_model_is_scored_as_often_as_asked_and_after_the_last_round(
    rounds: int, every: int, scored: list[int]
) -> None:
    outcomes = scored_in(rounds, every, Score(Evaluation(0.75, 1.0, 8)))
    assert [each.round for each in outcomes if each.server is not None] == scored
    assert [each.round for each in outcomes if "evaluate" in each.seconds] == scored


def test_what_a_method_adds_to_its_figures_is_recorded() -> None:
    (only,) = scored_in(1, 1, Score(Evaluation(0.75, 1.0, 8), {"clusters": [3, 5]}))
    record = only.record()
    assert record.server == Figures(accuracy=0.75, loss=1.0)
    assert record.details == {"clusters": [3, 5]}


def test_a_server_without_test_samples_scores_nothing() -> None:
    method: Any = SimpleNamespace(score=lambda test: pytest.fail("there is nothing to score on"))
    each = outcome(1, 0.5)
    EvaluationHook(method, None, 1, 1).after_round(each)
    assert each.record().server == Figures(accuracy=None, loss=None)
    assert each.seconds == {}


def test_a_method_that_has_nothing_to_score_leaves_the_figures_empty() -> None:
    (only,) = scored_in(1, 1, None)
    assert only.record().server == Figures(accuracy=None, loss=None)
