"""Metrics beside accuracy and loss (``data.metric``)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from protocol.messages import Evaluation
from protocol.references import Registry

NO_METRIC = "none"


@dataclass(frozen=True)
class Metric:
    """A metric of predictions for samples of known classes.

    Parameters
    ----------
    title
        Its name in reports.
    score
        Maps probabilities, float64 of shape (n, classes), and classes, int64 of shape (n,), on the CPU, to
        the metric's value; None if it is undefined.
    bounds
        The smallest and the largest possible value.
    better
        Whether a higher or a lower value is better.
    ordered
        Whether it depends on the order of the classes, as for grades; exits are then graded too.
    """

    title: str
    score: Callable[[Tensor, Tensor], float | None]
    bounds: tuple[float, float] = (0.0, 1.0)
    better: Literal["higher", "lower"] = "higher"
    ordered: bool = False

    def __call__(self, probabilities: Tensor, targets: Tensor) -> float | None:
        """Score predictions for samples whose classes are known.

        Parameters
        ----------
        probabilities
            Shape (n, classes), on any device.
        targets
            Classes, int64 of shape (n,).

        Raises
        ------
        ValueError
            If the value lies outside the metric's bounds.
        """
        value = self.score(probabilities.cpu(), targets.cpu())
        if value is not None and not self.allows(value):
            raise ValueError(f"{self.title} = {value}: must be from {self.bounds[0]} to {self.bounds[1]}")
        return value

    def allows(self, value: float) -> bool:
        """Tell whether a value is possible."""
        return self.bounds[0] <= value <= self.bounds[1]  # NaN is not

    def best(self, values: Iterable[float]) -> float:
        """Return the best of some values, at least one."""
        return max(values) if self.better == "higher" else min(values)


def area_under_roc(probabilities: Tensor, targets: Tensor) -> float | None:
    """Return the area under the ROC curve: of the second class of two, else the unweighted mean over classes.

    It is undefined for a class that all samples have, or none.
    """
    return _area_under_roc(probabilities.numpy(), targets.numpy())


def kappa(probabilities: Tensor, targets: Tensor) -> float | None:
    """Return Cohen's κ with quadratic weights of the most probable classes, ordered by their numbers.

    It is undefined if all targets and predictions are the same class.
    """
    likely = probabilities.numpy()
    return quadratic_kappa(likely.argmax(axis=1), targets.numpy(), likely.shape[1])


METRICS: Mapping[str, Metric] = {
    "auroc": Metric("AUROC", area_under_roc),
    "kappa": Metric("quadratic κ", kappa, bounds=(-1.0, 1.0), ordered=True),
}


def _accept(found: object, reference: str) -> Metric:
    if not isinstance(found, Metric):
        raise TypeError("must be a learning.metrics.Metric: title, score, bounds, better, ordered")
    return found


REGISTRY: Registry[Metric] = Registry("data.metric", METRICS, _accept)


def metric_of(name: str) -> Metric | None:
    """Return the metric that ``data.metric`` names; None for ``none``.

    Raises
    ------
    SettingsError
        If there is no such metric.
    """
    return None if name == NO_METRIC else REGISTRY.find(name)


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
        Predicted and true classes, shape (n,).
    classes
        Number of classes.
    """
    from sklearn.metrics import cohen_kappa_score  # takes a second

    if len(np.union1d(answers, right)) < 2:
        return None  # chance agreement is 1, so κ is undefined
    value = float(cohen_kappa_score(right, answers, labels=range(classes), weights="quadratic"))
    return min(max(value, -1.0), 1.0)  # sums of fractions end a bit beside 1


def mean(weighted: Iterable[tuple[float | None, float]]) -> float | None:
    """Return the weighted mean of the values that are not None; None if all are."""
    defined = [(value, weight) for value, weight in weighted if value is not None]
    if not defined:
        return None
    return sum(value * weight for value, weight in defined) / sum(weight for _, weight in defined)


def figures(evaluation: Evaluation | None, metric: Metric | None) -> dict[str, float | None]:
    """Return an evaluation as it is written to ``rounds.jsonl``; without one all values are None."""
    names = ["accuracy", "loss"] if metric is None else ["accuracy", "loss", "metric"]
    return {name: None if evaluation is None else getattr(evaluation, name) for name in names}
