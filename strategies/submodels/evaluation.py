"""Evaluation of networks with exits: each exit, their ensemble, and early exit by confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Samples
from learning.grading import ExitGrades
from learning.metrics import Metric, mean
from learning.precision import FLOAT32, Arithmetic
from learning.training import exit_logits, score_logits
from models.elastic import ExitNetwork
from protocol.messages import Evaluation

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class ExitScores:
    """The scores of one network with early exits."""

    last: Evaluation
    """Of the last exit."""
    exits: tuple[float, ...]
    """Accuracy of each exit, the shallowest first."""
    ensemble: float
    """Accuracy of the mean of the exits' probabilities."""
    early: tuple[Mapping[str, float], ...]
    """For each threshold: accuracy and mean MACs per image with early exit."""
    grades: ExitGrades | None = None
    """Further metrics for ordered classes; None for other classes."""

    def as_details(self) -> dict[str, Any]:
        """Return the scores as they are written to ``rounds.jsonl``."""
        details = {
            "exits": list(self.exits),
            "ensemble": self.ensemble,
            "early_exit": [dict(point) for point in self.early],
        }
        return details if self.grades is None else details | {"grades": self.grades.as_details()}

    def grades_of_last(self) -> dict[str, Any]:
        """Return the grades of the last exit for a level's entry; empty without grades."""
        return {} if self.grades is None else {"grades": self.grades.exits[-1].as_details()}


def score_exits(
    model: ExitNetwork,
    test: Samples,
    macs: Sequence[int],
    metric: Metric | None = None,
    arithmetic: Arithmetic = FLOAT32,
) -> ExitScores:
    """Score every exit of a network, their ensemble, and early-exit inference.

    Parameters
    ----------
    model
        Its norms must be calibrated.
    test
        Held-out samples.
    macs
        Multiply-accumulates of one image up to each exit.
    metric
        Computed for the last exit. If it is one for ordered classes, all exits are graded.
    arithmetic
        Precision of the network's layers.
    """
    logits = exit_logits(model, test.inputs, arithmetic)
    probabilities = torch.stack([F.softmax(z, dim=1) for z in logits])
    right = probabilities.argmax(dim=2) == test.targets
    together = probabilities.mean(dim=0).argmax(dim=1) == test.targets
    return ExitScores(
        score_logits(logits[-1], test.targets, metric),
        tuple(_share(exit_) for exit_ in right),
        _share(together),
        tuple(early_exit(probabilities, test.targets, macs, threshold) for threshold in THRESHOLDS),
        ExitGrades.of(probabilities, test.targets) if metric is not None and metric.ordered else None,
    )


def early_exit(
    probabilities: Tensor, targets: Tensor, macs: Sequence[int], threshold: float
) -> dict[str, float]:
    """Predict each sample at the first exit whose largest probability reaches a threshold, else at the last.

    Parameters
    ----------
    probabilities
        Of shape (exits, samples, classes).
    targets
        Classes, int64 of shape (samples,).
    macs
        Multiply-accumulates of one image up to each exit.
    threshold
        From 0 to 1.

    Returns
    -------
    dict[str, float]
        ``threshold``, ``accuracy`` in [0, 1] and ``flops``, the mean MACs per image.
    """
    sure = probabilities.amax(dim=2) >= threshold
    sure[-1] = True
    chosen = sure.int().argmax(dim=0)  # the first exit that is sure
    answers = probabilities.argmax(dim=2).gather(0, chosen[None])[0]
    cost = torch.tensor(macs, dtype=torch.float64, device=chosen.device)[chosen].mean()
    return {"threshold": threshold, "accuracy": _share(answers == targets), "flops": float(cost)}


def mean_evaluation(results: Sequence[Evaluation]) -> Evaluation:
    """Return the unweighted mean of evaluations on the same samples; undefined metrics are left out."""
    count = len(results)
    accuracy = sum(result.accuracy for result in results) / count
    loss = sum(result.loss for result in results) / count
    return Evaluation(accuracy, loss, results[0].examples, mean((result.metric, 1) for result in results))


def _share(right: Tensor) -> float:
    return float(right.double().mean())
