"""Forests, boosted trees and networks learn from each other's soft labels, over the in-process grid."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Message
from torch import Tensor

from data import Inputs, load_client_data
from learning.estimator_learner import EstimatorLearner
from learning.learner import Learner, TorchLearner
from learning.saved import load_model
from models import load_weights
from protocol import references
from protocol.errors import SettingsError
from server_app.run_folder import RunFolder
from simulation.clock import SimulatedClock
from simulation.executors import InThisProcess
from simulation.grid import Delivery, Faults, InProcessGrid, no_faults
from simulation.run import run_over
from strategies.sides import ServerSide
from tests.support.faults import by_round, failing, late_by, twice
from tests.support.federation import run_quickly, settings, without_times

FOREST = "sklearn:RandomForestClassifier(n_estimators=10, min_samples_leaf=2)"
BOOSTED = "sklearn:HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5)"
MIXED = f"{FOREST}, {BOOSTED}, mlp"
ROUNDS = 3


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of two classes that follow from two of three columns."""
    draw = np.random.default_rng(0)
    columns = draw.normal(size=(420, 3))
    label = np.where(columns[:, 0] + columns[:, 1] > 0, "ill", "well")
    file = tmp_path_factory.mktemp("data") / "patients.csv"
    pd.DataFrame({"a": columns[:, 0], "b": columns[:, 1], "c": columns[:, 2], "label": label}).to_csv(
        file, index=False
    )
    return file


def mixed(table: Path, **changes: Any) -> dict[str, Any]:
    return {
        "num_rounds": ROUNDS,
        "model": "mlp",
        "models": MIXED,
        "data__source": str(table),
        "data__alpha": 1.0,
        "data__server_test_size": 100,
        "data__metric": "auroc",
        "train__batch_size": 10,
        **changes,
    }


def run_mixed(table: Path, output: Path, faults: Faults = no_faults, **changes: Any) -> RunFolder:
    return run_quickly(output, nodes=3, faults=faults, **mixed(table, **changes))


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run in which nothing went wrong."""
    return run_mixed(table, tmp_path_factory.mktemp("whole"))


def assert_same(one: RunFolder, other: RunFolder) -> None:
    assert without_times(one.rounds()) == without_times(other.rounds())
    for file in sorted(one.models.iterdir()):
        weights, others = load_weights(file)[0], load_weights(other.models / file.name)[0]
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_unequal_learners_take_part_in_every_round_and_learn(finished: RunFolder) -> None:
    lines = finished.rounds()
    assert [line["nodes"]["answered"] for line in lines] == [3] * ROUNDS
    assert [line["nodes"]["failed"] for line in lines] == [[]] * ROUNDS
    assert lines[-1]["clients"]["accuracy"] > 0.75
    assert lines[-1]["clients"]["metric"] > 0.8


@pytest.mark.parametrize(
    "server", [FOREST, "sklearn:LogisticRegression", "xgboost:XGBClassifier(n_estimators=10)"]
)
def test_the_server_may_be_an_estimator_that_learns_from_soft_labels_alone(
    server: str, table: Path, tmp_path: Path
) -> None:
    folder = run_mixed(table, tmp_path, model=server)
    lines = folder.rounds()
    assert lines[-1]["server"]["metric"] > 0.85  # what skewed clients' mean is biased by moves no area
    assert load_model(folder.models / "server.safetensors").state()["classes"].tolist() == [0, 1]


@pytest.mark.parametrize(("server", "more"), [("mlp", False), (FOREST, True)])
def test_a_server_that_learns_anew_learns_from_every_label_it_holds(
    server: str, more: bool, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network remembers those of earlier rounds in its weights; a forest would forget them."""
    seen: list[int] = []
    new_learner = ServerSide.new_learner

    def recording(side: ServerSide) -> Learner:
        learner = new_learner(side)
        own = learner.distil

        def distil(inputs: Inputs, labels: Tensor, round: int) -> None:
            seen.append(len(inputs))
            own(inputs, labels, round)

        object.__setattr__(learner, "distil", distil)
        return learner

    monkeypatch.setattr(ServerSide, "new_learner", recording)
    run_mixed(table, tmp_path, model=server)
    assert len(seen) == ROUNDS
    assert (seen[-1] > seen[0]) == more


@pytest.mark.parametrize("strategy", ["dsfl", "individual"])
def test_other_strategies_without_weights_take_them_too(strategy: str, table: Path, tmp_path: Path) -> None:
    lines = run_mixed(table, tmp_path, strategy=strategy).rounds()
    assert lines[-1]["nodes"]["answered"] == 3
    assert lines[-1]["clients"]["accuracy"] > 0.7


@pytest.mark.parametrize("strategy", ["fedavg", "scalefl"])
def test_a_strategy_that_averages_weights_refuses_them(strategy: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=f"strategy {strategy} averages weights, an estimator has none; it can learn with"
    ):
        run_mixed(table, tmp_path, strategy=strategy, model=FOREST, models="")


def test_a_run_of_estimators_alone_needs_no_setting_of_networks(table: Path, tmp_path: Path) -> None:
    folder = run_mixed(
        table, tmp_path, model=FOREST, models="", num_rounds=2, distillation__final_exchange=True
    )
    assert [line.get("final", False) for line in folder.rounds()] == [False, False, True]


NEAREST = '''
import numpy as np


class NearestMean:
    """Answers by the distance from each class's mean."""

    def fit(self, inputs, classes, sample_weight):
        of_class = [classes == each for each in np.unique(classes)]
        means = [np.average(inputs[some], axis=0, weights=sample_weight[some]) for some in of_class]
        self.means = np.stack(means)

    def predict_proba(self, inputs):
        near = np.exp(-((inputs[:, None] - self.means) ** 2).sum(axis=2))
        return near / near.sum(axis=1, keepdims=True)
'''


def test_a_class_of_the_users_own_learns_and_is_read_back_in_another_run(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "clinic"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "nearest.py").write_text(NEAREST)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setitem(references._open_packages, "clinic", package.parent)
    changes = {"model": "clinic.nearest:NearestMean", "models": "clinic.nearest:NearestMean, mlp"}
    whole = run_mixed(table, tmp_path / "whole", **changes)
    run_mixed(table, tmp_path / "parts", **{**changes, "num_rounds": 1})
    assert_same(run_mixed(table, tmp_path / "parts", resume="auto", **changes), whole)
    learner = load_model(whole.models / "server.safetensors")
    test = load_client_data(settings(tmp_path, **mixed(table, **changes)), 0, 3).test
    assert learner.predict(test.inputs).shape == (len(test), 2)


def test_images_are_learned_by_estimators(tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, nodes=2, num_rounds=2, model=FOREST, data__alpha=100.0)
    assert folder.rounds()[-1]["clients"]["accuracy"] > 0.6


# --- faults, states, resuming ------------------------------------------------------------------------


def in_the_middle_of(round: int) -> Faults:
    at_work: list[Message] = []

    def fault(request: Message, reply: Message, now: float) -> list[Delivery]:
        at_work.extend([reply] if request.metadata.group_id == str(round) else [])
        if len(at_work) == 2:
            raise KeyboardInterrupt
        return no_faults(request, reply, now)

    return fault


@pytest.mark.parametrize("server", ["mlp", FOREST])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    server: str, finished: RunFolder, table: Path, tmp_path: Path
) -> None:
    whole = finished if server == "mlp" else run_mixed(table, tmp_path / "whole", model=server)
    with pytest.raises(KeyboardInterrupt):
        run_mixed(table, tmp_path / "killed", in_the_middle_of(2), model=server)
    resumed = run_mixed(table, tmp_path / "killed", model=server, resume="auto")
    assert_same(resumed, whole)


def test_replies_that_fail_are_late_or_doubled_leave_the_others_in_step(table: Path, tmp_path: Path) -> None:
    faults = by_round(
        {(1, 0): late_by(6.0), (2, 1): failing("out of memory"), (2, 2): late_by(4.0), (3, 2): twice}
    )
    lines = run_mixed(table, tmp_path, faults, num_rounds=5).rounds()
    assert [line["nodes"]["answered"] for line in lines] == [2, 1, 3, 3, 3]
    assert lines[-1]["clients"]["accuracy"] > 0.75


def hospitals(table: Path, output: Path, models: dict[str, str], **changes: Any) -> InProcessGrid:
    """Run real nodes that say in their node-config what they train."""
    from client_app.app import app

    run_settings = settings(output / "runs", **mixed(table, models="", **changes))
    grid = InProcessGrid(InThisProcess(app), SimulatedClock(), recording=True)
    for part, (name, model) in enumerate(models.items()):
        own = {"client-name": name, "partition-id": part, "num-partitions": len(models), "model": model}
        grid.add_node(run_settings.flat(), {**own, "state-dir": str(output / "state")})
    run_over(grid, run_settings, simulation=False)
    return grid


def test_a_node_says_which_estimator_it_trains(table: Path, tmp_path: Path) -> None:
    grid = hospitals(table, tmp_path, {"north": FOREST, "south": "xgboost:XGBClassifier(n_estimators=5)"})
    said = [
        next(iter(reply.content.config_records.values()))["model"]
        for reply in grid.replies
        if "model" in next(iter(reply.content.config_records.values()))
    ]
    assert sorted(said) == [FOREST, "xgboost:XGBClassifier(n_estimators=5)"]


def test_a_node_that_trained_another_estimator_is_refused(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hospitals(table, tmp_path, {"north": FOREST, "south": "mlp"}, num_rounds=2)
    [run] = (tmp_path / "runs").iterdir()
    changes: dict[str, Any] = {"num_rounds": 3, "resume": str(run), "min_replies": 0}
    other = FOREST.replace("10", "20")
    with caplog.at_level("INFO", "flwr"):
        hospitals(table, tmp_path, {"north": other, "south": "mlp"}, **changes)
    assert f"model = {other!r}: client 'north' trained {FOREST!r}" in caplog.text


def test_only_predictions_travel(table: Path, tmp_path: Path) -> None:
    """No message has room for an estimator, whose state is many times as large."""
    grid = hospitals(table, tmp_path, {"north": FOREST, "south": BOOSTED}, num_rounds=2)
    states = [file.stat().st_size for file in (tmp_path / "state").rglob("*.safetensors")]
    assert min(states) > 5_000
    sent = [len(str(reply.content)) for reply in grid.replies]
    assert max(sent) < 3_000


# --- saved models ------------------------------------------------------------------------------------


def test_saved_models_are_read_back_for_use(finished: RunFolder, table: Path) -> None:
    run_settings = settings(finished.path.parent, **mixed(table))
    kinds = [EstimatorLearner, EstimatorLearner, TorchLearner]
    accuracies = []
    for part, kind in enumerate(kinds):
        learner = load_model(finished.models / f"client-000{part}.safetensors")
        assert isinstance(learner, kind)
        test = load_client_data(run_settings, part, 3).test
        accuracies.append((learner.evaluate(test).accuracy, len(test)))
    mean = sum(accuracy * size for accuracy, size in accuracies) / sum(size for _, size in accuracies)
    assert mean == pytest.approx(finished.rounds()[-1]["clients"]["accuracy"])
    assert isinstance(load_model(finished.models / "server.safetensors"), TorchLearner)


def test_a_submodel_that_was_saved_has_its_clients_shape(tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, nodes=4, num_rounds=1, model="elastic-cnn")
    sizes = set()
    for part in range(4):
        learner = load_model(folder.models / f"client-000{part}.safetensors")
        sizes.add(sum(tensor.numel() for tensor in learner.state().values()))
    assert len(sizes) == 4
