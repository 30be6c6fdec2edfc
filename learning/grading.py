"""How answers to samples of ordered classes do: the figures by which ScaleFL-med's grades are compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from learning.metrics import quadratic_kappa


@dataclass(frozen=True)
class Grades:
    """The figures of one exit, or of several together."""

    accuracy: float
    """Share of right answers."""
    macro_f1: float
    """Plain mean of the F1 of each class that occurs, in the test or among the answers.

    Of a class that nobody has and nobody is said to have there is no F1. One that is only said, or only
    missed, has an F1 of 0 and counts.
    """
    mean_absolute_error: float
    """In classes: how far the answer is off in the mean."""
    kappa: float | None
    """Cohen's κ with quadratic weights; None if all targets and answers are one class."""

    def as_details(self) -> dict[str, Any]:
        """Return the figures as a round's line holds them."""
        return asdict(self)


@dataclass(frozen=True)
class ExitGrades:
    """The figures of one network with early exits."""

    exits: tuple[Grades, ...]
    """The shallowest first."""
    ensemble: Grades
    """Of the most probable classes by the mean of the exits' probabilities."""

    @classmethod
    def of(cls, probabilities: Tensor, targets: Tensor) -> Self:
        """Grade every exit and all together.

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
        """Return the figures as a round's line holds them."""
        return {"exits": _each(self.exits), "ensemble": self.ensemble.as_details()}


def grade(answers: Tensor, targets: Tensor, classes: int) -> Grades:
    """Compare answers with what is right.

    Parameters
    ----------
    answers, targets
        Classes, int64 of shape (samples,), at least one; their order is that of their numbers.
    classes
        How many there are.
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
