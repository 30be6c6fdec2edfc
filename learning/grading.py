"""Metrics of predictions of ordered classes, such as ScaleFL-med's grades."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from learning.metrics import quadratic_kappa


@dataclass(frozen=True)
class Grades:
    """The metrics of one exit, or of the ensemble of all."""

    accuracy: float
    """Share of correct predictions."""
    macro_f1: float
    """Unweighted mean of the F1 of each class that occurs among the targets or the predictions.

    A class that occurs in neither has no F1; one that occurs in only one of them has an F1 of 0.
    """
    mean_absolute_error: float
    """Mean absolute difference between predicted and true class, in classes."""
    kappa: float | None
    """Cohen's κ with quadratic weights; None if all targets and predictions are the same class."""

    def as_details(self) -> dict[str, Any]:
        """Return the metrics as they are written to ``rounds.jsonl``."""
        return asdict(self)


@dataclass(frozen=True)
class ExitGrades:
    """The metrics of one network with early exits."""

    exits: tuple[Grades, ...]
    """The shallowest first."""
    ensemble: Grades
    """Of the ensemble, which averages the exits' probabilities."""

    @classmethod
    def of(cls, probabilities: Tensor, targets: Tensor) -> Self:
        """Grade every exit and the ensemble.

        Parameters
        ----------
        probabilities
            Of shape (exits, samples, classes).
        targets
            Classes, int64 of shape (samples,).
        """
        classes = probabilities.shape[2]
        exits = tuple(grade(answers, targets, classes) for answers in probabilities.argmax(dim=2))
        return cls(exits, grade(probabilities.mean(dim=0).argmax(dim=1), targets, classes))

    def as_details(self) -> dict[str, Any]:
        """Return the metrics as they are written to ``rounds.jsonl``."""
        return {"exits": _each(self.exits), "ensemble": self.ensemble.as_details()}


def grade(answers: Tensor, targets: Tensor, classes: int) -> Grades:
    """Compare predicted with true classes.

    Parameters
    ----------
    answers, targets
        Predicted and true classes, int64 of shape (samples,), at least one; ordered by their numbers.
    classes
        Number of classes.
    """
    from sklearn.metrics import f1_score, mean_absolute_error  # takes a second

    said, right = answers.cpu().numpy(), targets.cpu().numpy()
    return Grades(
        float((said == right).mean()),
        float(f1_score(right, said, average="macro", zero_division=0.0)),
        float(mean_absolute_error(right, said)),
        quadratic_kappa(said, right, classes),
    )


def _each(grades: Sequence[Grades]) -> list[dict[str, Any]]:
    return [one.as_details() for one in grades]
