"""The last table of a run with ordered classes: how each level, each exit and all exits together grade."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = ("", "accuracy", "macro-F1", "mean absolute error", "quadratic κ")


def grade_rows(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the table's rows as of the last evaluation at the server; none if nothing was graded.

    Parameters
    ----------
    lines
        Of ``rounds.jsonl``.
    """
    line: Mapping[str, Any] = next((line for line in reversed(lines) if "levels" in line), {})
    graded = {f"level {each['level']}": each["grades"] for each in line.get("levels", ()) if "grades" in each}
    if whole := line.get("grades"):
        graded |= {f"whole network, exit {place}": each for place, each in enumerate(whole["exits"], start=1)}
        graded["whole network, exits together"] = whole["ensemble"]
    return [(name, *_cells(grades)) for name, grades in graded.items()]


def _cells(grades: Mapping[str, Any]) -> tuple[str, ...]:
    kappa = grades["kappa"]
    return (
        f"{100 * grades['accuracy']:.1f} %",
        f"{grades['macro_f1']:.3f}",
        f"{grades['mean_absolute_error']:.3f}",
        "–" if kappa is None else f"{kappa:.3f}",
    )
