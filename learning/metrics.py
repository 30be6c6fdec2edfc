"""The figure beside accuracy and loss that a run may ask for (``data.metric``): found, averaged, named."""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from protocol.messages import Evaluation

MetricName = Literal["none", "auroc", "kappa"]

TITLES: Mapping[MetricName, str] = {"auroc": "AUROC", "kappa": "quadratic κ"}
"""As people know them."""


def score(name: MetricName, probabilities: Tensor, targets: Tensor) -> float | None:
    """Score answers to samples whose classes are known.

    Parameters
    ----------
    name
        ``auroc``: area under the ROC curve, of the second class if there are two, else the plain mean of
        each class against the rest. ``kappa``: Cohen's κ with quadratic weights, of the most probable
        classes; their order is that of their numbers.
    probabilities
        Shape (n, classes).
    targets
        Classes, int64 of shape (n,).

    Returns
    -------
    float or None
        From 0 to 1, or from -1 to 1; None for ``none``, and where it is not defined: an area needs a class
        that some samples have and some have not, κ two classes among targets and answers.
    """
    if name == "none":
        return None
    likely, right = probabilities.cpu().numpy(), targets.cpu().numpy()
    if name == "auroc":
        return _area_under_roc(likely, right)
    return quadratic_kappa(likely.argmax(axis=1), right, likely.shape[1])


def _area_under_roc(likely: NDArray[np.float64], right: NDArray[np.int64]) -> float | None:
    from sklearn.metrics import roc_auc_score  # takes a second

    classes = likely.shape[1]
    tested = [1] if classes == 2 else range(classes)
    areas = [
        float(roc_auc_score(right == each, likely[:, each]))
        for each in tested
        if 0 < (right == each).sum() < len(right)
    ]
    value = mean((area, 1) for area in areas)
    return None if value is None else min(value, 1.0)  # sums of fractions end a bit beside 1


def quadratic_kappa(answers: NDArray[np.int64], right: NDArray[np.int64], classes: int) -> float | None:
    """Return Cohen's κ with quadratic weights, from -1 to 1; None if only one class occurs.

    Parameters
    ----------
    answers, right
        Classes, of shape (n,).
    classes
        How many there are.
    """
    from sklearn.metrics import cohen_kappa_score  # takes a second

    if len(np.union1d(answers, right)) < 2:
        return None  # chance alone would always agree, so there is nothing to compare with
    value = float(cohen_kappa_score(right, answers, labels=range(classes), weights="quadratic"))
    return min(max(value, -1.0), 1.0)  # sums of fractions end a bit beside 1


def mean(weighted: Iterable[tuple[float | None, float]]) -> float | None:
    """Return the mean of values with weights, of those that are defined; None if none is."""
    defined = [(value, weight) for value, weight in weighted if value is not None]
    if not defined:
        return None
    return sum(value * weight for value, weight in defined) / sum(weight for _, weight in defined)


def figures(evaluation: Evaluation | None, metric: MetricName) -> dict[str, float | None]:
    """Return an evaluation as ``rounds.jsonl`` holds it; without one all figures are None."""
    names = ["accuracy", "loss"] if metric == "none" else ["accuracy", "loss", "metric"]
    return {name: None if evaluation is None else getattr(evaluation, name) for name in names}
