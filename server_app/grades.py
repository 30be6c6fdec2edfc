"""The last table of a run with ordered classes: grades of each level, each exit, and the ensemble."""

from collections.abc import Sequence

from learning.grading import Grades
from server_app.round_record import RoundRecord

HEADINGS = ("", "accuracy", "macro-F1", "mean absolute error", "quadratic κ")


def grade_rows(records: Sequence[RoundRecord]) -> list[tuple[str, ...]]:
    """Return the table's rows as of the last evaluation at the server; none if nothing was graded.

    Parameters
    ----------
    records
        Of a run's rounds, in their order.
    """
    record = next((record for record in reversed(records) if record.levels), None)
    if record is None:
        return []
    graded = {f"level {each.level}": each.grades for each in record.levels if each.grades}
    if whole := record.grades:
        graded |= {f"whole network, exit {place}": each for place, each in enumerate(whole.exits, start=1)}
        graded["whole network, ensemble of exits"] = whole.ensemble
    return [(name, *_cells(grades)) for name, grades in graded.items()]


def _cells(grades: Grades) -> tuple[str, ...]:
    return (
        f"{100 * grades.accuracy:.1f} %",
        f"{grades.macro_f1:.3f}",
        f"{grades.mean_absolute_error:.3f}",
        "–" if grades.kappa is None else f"{grades.kappa:.3f}",
    )
