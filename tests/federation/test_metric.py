"""A figure beside accuracy, from the nodes and the server to everything that a run leaves behind."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from server_app.run_folder import RunFolder
from tests.support.federation import run_quickly

RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg", "data__metric": "kappa"},
    "scarlet": {"strategy": "scarlet", "data__metric": "auroc"},
    "individual": {"strategy": "individual", "data__metric": "auroc"},
    "scalefl": {"strategy": "scalefl", "model": "elastic-cnn", "data__metric": "auroc", "precision": "bf16"},
}


def words(folder: RunFolder) -> str:
    return " ".join(folder.summary_file.read_text().replace("│", " ").split())


@pytest.mark.parametrize("name", RUNS)
def test_a_metric_stands_wherever_accuracy_stands(name: str, tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, num_rounds=1, data__split="iid", **RUNS[name])

    (line,) = folder.rounds()
    title = "quadratic κ" if name == "fedavg" else "AUROC"
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    for side in ("clients",) if name == "individual" else ("clients", "server"):
        metric = line[side]["metric"]
        assert -1 <= metric <= 1
        assert metric not in (0.0, line[side]["accuracy"])
        assert f"{title} of the {side}" in words(folder)
        assert f"{metric:.3f} (best {metric:.3f})" in words(folder)
        assert events.Scalars(f"{side}/metric")[0].value == pytest.approx(metric)
    assert line["server"].keys() == line["clients"].keys()
    assert all("metric" in level for level in [*line.get("levels", []), *line.get("clients_by_level", [])])


def test_ordered_classes_are_graded_by_level_exit_and_together(tmp_path: Path) -> None:
    changes = {"strategy": "scalefl", "model": "elastic-cnn", "data__metric": "kappa"}
    folder = run_quickly(tmp_path, num_rounds=1, data__split="iid", **changes)

    (line,) = folder.rounds()
    figures = ["accuracy", "macro_f1", "mean_absolute_error", "kappa"]
    graded = [level["grades"] for level in line["levels"]] + line["grades"]["exits"]
    assert all(list(each) == figures for each in [*graded, line["grades"]["ensemble"]])
    last = f"{100 * line['ensemble']:.1f} % {line['grades']['ensemble']['macro_f1']:.3f}"
    assert f"whole network, ensemble of exits {last}" in words(folder)
    assert "<h2>Grades</h2>" in folder.report_file.read_text()


def test_a_run_without_a_metric_says_nothing_of_one(tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, num_rounds=1)
    assert "metric" not in folder.rounds_file.read_text()
