"""Unequal clients train parts of one network, over whole runs."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import load_weights
from models.elastic import Shape
from protocol.settings import RunSettings
from server_app.checkpoint import CheckpointStore
from server_app.report import submodels as submodels_drawn
from server_app.run_folder import RunFolder
from simulation.grid import FIRST_NODE, InProcessGrid, is_train, read_reply
from simulation.run import grid_for, run_over
from strategies.levels import assign_levels
from strategies.submodels.evaluation import THRESHOLDS
from strategies.submodels.messages import SliceReply, SliceRequest
from strategies.submodels.submodels import Submodels
from strategies.submodels.variants import VARIANTS
from tests.support.elastic import submodels_of
from tests.support.faults import by_round, dropped, late_by, then
from tests.support.federation import ALL_DIGITS, run_quickly, settings

NODES = 4
CLASSES, IMAGES = 10, (1, 8, 8)
SUBMODELS: dict[str, Any] = {
    "model": "elastic-cnn",
    "num_rounds": 3,
    "train__epochs": 2,
    "train__batch_size": 16,
    "train__momentum": 0.5,
    "data__alpha": 100.0,
}
LEVELS = {
    f"client-000{client}": level for client, level in enumerate(assign_levels([0.25] * 4, NODES, seed=0))
}
CLIENT_OF = {level: client for client, level in LEVELS.items()}

Runs = Callable[[str], tuple[InProcessGrid, RunFolder]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the run of a strategy with its grid, each run once."""
    done: dict[str, tuple[InProcessGrid, RunFolder]] = {}

    def run(strategy: str) -> tuple[InProcessGrid, RunFolder]:
        if strategy not in done:
            run_settings = settings(tmp_path_factory.mktemp(strategy), strategy=strategy, **SUBMODELS)
            grid = grid_for(run_settings, NODES)
            done[strategy] = grid, run_over(grid, run_settings)
        return done[strategy]

    return run


# --- every strategy ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", sorted(VARIANTS))
def test_every_strategy_learns_the_digits(strategy: str, runs: Runs) -> None:
    _, folder = runs(strategy)
    lines = folder.rounds()
    asked = 1 if strategy == "fedavg-largest" else NODES
    assert [line["nodes"]["answered"] for line in lines] == [asked] * 3
    assert lines[-1]["server"]["accuracy"] > 0.25, "a guess is right in a tenth"
    assert lines[-1]["clients"]["accuracy"] > lines[0]["clients"]["accuracy"] + 0.1


@pytest.mark.parametrize("strategy", sorted(VARIANTS))
def test_a_line_tells_every_levels_figures(strategy: str, runs: Runs) -> None:
    _, folder = runs(strategy)
    trained = {"fedavg-smallest": [1], "fedavg-largest": [4]}
    for line in folder.rounds():
        scored = [figures["level"] for figures in line["levels"]]
        assert scored == trained.get(strategy, [1, 2, 3, 4])
        clients = [(figures["level"], figures["clients"]) for figures in line["clients_by_level"]]
        assert clients == [(level, 1) for level in ([4] if strategy == "fedavg-largest" else [1, 2, 3, 4])]
        for figures in line["levels"]:
            assert figures.keys() == {"level", "accuracy", "loss", "examples", "ensemble"}
        if "exits" in line:
            assert line["levels"][-1]["ensemble"] == line["ensemble"]
        else:
            assert all(figures["ensemble"] == figures["accuracy"] for figures in line["levels"])
        mean = sum(figures["accuracy"] for figures in line["levels"]) / len(line["levels"])
        assert line["server"]["accuracy"] == pytest.approx(mean)


@pytest.mark.parametrize("strategy", sorted(VARIANTS))
def test_a_network_with_exits_tells_their_figures_too(strategy: str, runs: Runs) -> None:
    _, folder = runs(strategy)
    details = {"exits", "ensemble", "early_exit"}
    for line in folder.rounds():
        assert details & line.keys() == (details if strategy in ("scalefl", "depthfl") else set())
    if strategy in ("scalefl", "depthfl"):
        assert len(line["exits"]) == 4
        assert [point["threshold"] for point in line["early_exit"]] == list(THRESHOLDS)


def test_the_table_and_the_report_show_levels_and_exits(runs: Runs) -> None:
    _, folder = runs("scalefl")
    last = folder.rounds()[-1]
    words = " ".join(folder.summary_file.read_text().replace("│", " ").split())
    assert f"accuracy of the server, mean over levels {100 * last['server']['accuracy']:.1f} %" in words
    levels = ", ".join(f"{figures['level']}: {100 * figures['accuracy']:.1f} %" for figures in last["levels"])
    assert f"accuracy of the server by level {levels}" in words
    assert f"accuracy of the whole network, ensemble of exits {100 * last['ensemble']:.1f} %" in words
    assert "from confidence 0.8" in words
    assert "against DS-FL" not in words
    assert folder.report_file.read_text().count("<svg") == 2
    assert submodels_drawn(folder.records()).startswith("<svg")


def test_no_message_of_a_small_level_holds_a_deeper_block_or_norm_statistics(runs: Runs) -> None:
    grid, _ = runs("scalefl")
    smallest = FIRST_NODE + list(LEVELS).index(CLIENT_OF[1])
    depth = submodels("scalefl").shape(1).depth
    assert depth < submodels("scalefl").plan.whole.depth
    both = [SliceRequest.from_record(message.content) for message in grid.requests_to(smallest)]
    both += [read_reply(SliceReply, message) for message in grid.replies_of(smallest)]
    assert len(both) == 6
    for payload in both:
        numbers = {int(name.split(".")[1]) for name in payload.weights if name.startswith("blocks.")}
        assert numbers == set(range(depth))
        assert not [name for name in payload.weights if "running" in name]


def test_a_smaller_level_costs_fewer_bytes(runs: Runs) -> None:
    grid, _ = runs("scalefl")
    sizes = [
        sum(tensor.numel() for tensor in SliceRequest.from_record(request.content).weights.values())
        for level in (1, 2, 3, 4)
        for request in grid.requests_to(FIRST_NODE + list(LEVELS).index(CLIENT_OF[level]))[:1]
    ]
    assert sizes == [submodels("scalefl").cost(level).parameters for level in (1, 2, 3, 4)]
    assert sizes == sorted(set(sizes))


def submodels(strategy: str) -> Submodels:
    return submodels_of(RunSettings.parse({"strategy": strategy, "model": "elastic-cnn"}), IMAGES, CLASSES)


# --- evaluation --------------------------------------------------------------------------------


def test_withheld_samples_calibrate_as_well(tmp_path: Path) -> None:
    withheld = {"scalefl__calibration": "withheld", "data__withheld_size": 100}
    folder = run_quickly(tmp_path, NODES, strategy="scalefl", **{**SUBMODELS, "num_rounds": 1}, **withheld)
    assert folder.rounds()[0]["server"]["accuracy"] is not None


def test_without_calibration_the_server_scores_nothing(tmp_path: Path) -> None:
    changes = {**SUBMODELS, "num_rounds": 1, "scalefl__calibration": "none"}
    folder = run_quickly(tmp_path, NODES, strategy="scalefl", **changes)
    (line,) = folder.rounds()
    assert line["server"] == {"accuracy": None, "loss": None}
    assert "levels" not in line
    assert line["clients"]["accuracy"] is not None


def test_the_server_scores_as_often_as_asked_and_after_the_last_round(tmp_path: Path) -> None:
    changes = {**SUBMODELS, "num_rounds": 5, "train__epochs": 1, "evaluate_every": 2}
    folder = run_quickly(tmp_path, 2, strategy="heterofl", **changes)
    assert ["levels" in line for line in folder.rounds()] == [False, True, False, True, True]


# --- faults ------------------------------------------------------------------------------------


def weights_after(folder: RunFolder, round: int) -> dict[str, Tensor]:
    return load_weights(folder.checkpoints / f"round-{round:06d}" / "model.safetensors")[0]


@pytest.mark.parametrize("level", [1, 4])
def test_a_node_that_dies_in_a_round_costs_that_round_its_slice_only(level: int, tmp_path: Path) -> None:
    dead = list(LEVELS).index(CLIENT_OF[level])
    run_settings = settings(tmp_path, strategy="scalefl", **{**SUBMODELS, "num_rounds": 2, "min_nodes": 3})
    grid = grid_for(run_settings, NODES)

    def die() -> None:
        grid.nodes[FIRST_NODE + dead].online = False

    grid.faults = by_round({(2, dead): then(die, dropped)})
    folder = run_over(grid, run_settings)

    line = folder.rounds()[1]
    assert line["nodes"]["answered"] == 3
    assert line["nodes"]["failed"] == [{"client": CLIENT_OF[level], "reason": "its node went offline"}]
    assert [figures["level"] for figures in line["clients_by_level"]] == [
        each for each in (1, 2, 3, 4) if each != level
    ]
    before, after = weights_after(folder, 1), weights_after(folder, 2)
    where = submodels("scalefl").map(3 if level == 4 else 4, 2)
    for name, tensor in before.items():
        others = torch.zeros(tensor.shape, dtype=torch.bool)
        if name in where:
            others[where.places(name)] = True
        assert torch.equal(after[name][~others], tensor[~others]), name
        assert not others.any() or not torch.equal(after[name][others], tensor[others]), name


# --- who carries what --------------------------------------------------------------------------


def real_node(grid: InProcessGrid, run_settings: RunSettings, part: int, state: Path, **config: Any) -> int:
    """Connect a node with a name of its own; keys of its node-config may have underscores."""
    named = {key.replace("_", "-"): value for key, value in config.items()}
    own = {"client-name": f"clinic-{part}", "partition-id": part, "num-partitions": 2}
    return grid.add_node(run_settings.flat(), {**own, "state-dir": str(state), **named})


def levels_sent(grid: InProcessGrid, node: int) -> list[int]:
    return [SliceRequest.from_record(request.content).level for request in grid.requests_to(node)]


def test_a_simulated_node_can_be_told_its_level(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, strategy="scalefl", **{**SUBMODELS, "num_rounds": 1})
    grid = grid_for(run_settings, nodes=0)
    for part, level in enumerate((2, 3)):
        config = {"partition-id": part, "num-partitions": 2, "level": level}
        grid.add_node(run_settings.flat(), config)
    run_over(grid, run_settings)
    assert [levels_sent(grid, node) for node in grid.nodes] == [[2], [3]]


def test_a_node_of_a_level_that_does_not_exist_is_refused_and_told_which_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {**SUBMODELS, "num_rounds": 1, "min_nodes": 1}
    run_settings = settings(tmp_path / "runs", strategy="scalefl", **changes)
    grid = grid_for(run_settings, nodes=0)
    for part, level in enumerate((1, 9)):
        real_node(grid, run_settings, part, tmp_path / "state", level=level)
    with caplog.at_level(logging.WARNING, "flwr"):
        folder = run_over(grid, run_settings, simulation=False)
    assert folder.rounds()[0]["nodes"]["asked"] == 1
    assert "level = 9 (node-config): there are levels 1 to 4" in caplog.text


def test_a_node_that_comes_back_with_another_budget_is_planned_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {**SUBMODELS, "num_rounds": 4, "train__epochs": 1, "min_nodes": 1}
    run_settings = settings(tmp_path / "runs", strategy="scalefl", **changes)
    grid = grid_for(run_settings, nodes=0)
    state = tmp_path / "state"
    steady = real_node(grid, run_settings, 0, state, level=2)
    first = real_node(grid, run_settings, 1, state, level="auto", memory_budget=1e-6)
    second: list[int] = []

    def restart() -> None:
        grid.nodes[first].online = False
        second.append(real_node(grid, run_settings, 1, state, level="auto", memory_budget=4.0))

    grid.faults = by_round({(1, 1): then(restart)}, otherwise=late_by(2.0))
    with caplog.at_level(logging.INFO, "flwr"):
        run_over(grid, run_settings, simulation=False)

    assert levels_sent(grid, steady) == [2] * 4
    assert levels_sent(grid, first) == [1]
    assert set(levels_sent(grid, second[0])) == {4}
    assert "Client clinic-1 joined (elastic-cnn): level 1, even the smallest level needs" in caplog.text
    assert "Client clinic-1 joined (elastic-cnn): level 4 in place of 1, fits: " in caplog.text


# --- soft labels from unequal networks -----------------------------------------------------------


@pytest.fixture(scope="module")
def soft_labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[InProcessGrid, RunFolder]:
    run_settings = settings(
        tmp_path_factory.mktemp("scarlet"), model="elastic-cnn", num_rounds=3, **ALL_DIGITS
    )
    grid = grid_for(run_settings, NODES)
    return grid, run_over(grid, run_settings)


def test_submodels_learn_from_soft_labels_and_no_weight_travels(
    soft_labels: tuple[InProcessGrid, RunFolder],
) -> None:
    grid, folder = soft_labels
    lines = folder.rounds()
    assert [line["nodes"]["answered"] for line in lines] == [NODES] * 3
    assert lines[-1]["clients"]["accuracy"] > 0.5
    for message in (*grid.requests, *grid.replies):
        assert not message.content.array_records
        assert not is_train(message) or message.content.config_records


def test_each_client_keeps_the_submodel_of_its_level(soft_labels: tuple[InProcessGrid, RunFolder]) -> None:
    _, folder = soft_labels
    plan = submodels("scalefl").plan
    for client, level in LEVELS.items():
        weights, facts = load_weights(folder.models / f"{client}.safetensors")
        shape = plan.shapes[level - 1]
        assert isinstance(shape, Shape)
        assert facts["model"] == "elastic-cnn"
        assert (json.loads(facts["width"]), tuple(json.loads(facts["exits"]))) == (shape.width, shape.exits)
        built = submodels("scalefl").build(shape)
        assert {name: weights[name].shape for name, _ in built.named_parameters()} == {
            name: parameter.shape for name, parameter in built.named_parameters()
        }
        heads = {int(name.split(".")[1]) for name in weights if name.startswith("heads.")}
        assert heads == set(shape.exits)


def test_a_client_that_has_trained_another_level_is_told_to_set_it_back(tmp_path: Path) -> None:
    changes = {"model": "elastic-cnn", "min_replies": 0}
    run_settings = settings(tmp_path / "runs", num_rounds=1, **changes)
    grid = grid_for(run_settings, nodes=0)
    for part in (0, 1):
        real_node(grid, run_settings, part, tmp_path / "state", level=1)
    folder = run_over(grid, run_settings, simulation=False)

    resumed = settings(tmp_path / "runs", num_rounds=2, resume=str(folder.path), **changes)
    grid = grid_for(resumed, nodes=0)
    for part, level in enumerate((1, 2)):
        real_node(grid, resumed, part, tmp_path / "state", level=level)
    run_over(grid, resumed, simulation=False)

    (failure,) = folder.rounds()[1]["nodes"]["failed"]
    assert failure["client"] == "clinic-1"
    assert "client 'clinic-1' trained 'elastic-cnn level 1' before" in failure["reason"]
    assert "use that model again, or give the node another client-name" in failure["reason"]


def test_a_checkpoint_keeps_who_is_at_which_level(runs: Runs) -> None:
    _, folder = runs("scalefl")
    newest = CheckpointStore(folder.checkpoints).newest()
    assert newest is not None
    assert newest.state.facts["levels"] == LEVELS
