"""Nodes that hold their own data: nothing is split, and the server sees none of it."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data import load_client_data
from protocol.errors import FederationError
from server_app.run_folder import RunFolder
from simulation.clock import SimulatedClock
from simulation.executors import InThisProcess
from simulation.grid import InProcessGrid
from simulation.run import run_over
from tests.support.federation import settings

SITES = ("north", "east", "south")


def patients(count: int, seed: int) -> pd.DataFrame:
    """Return rows whose class follows from age and from how much it hurts."""
    draw = np.random.default_rng(seed)
    age = draw.normal(60, 10, count)
    pain = draw.choice(["none", "some", "much"], count)
    ill = (age - 60) / 10 + np.select([pain == "much", pain == "none"], [1.0, -1.0]) > 0
    age[draw.random(count) < 0.1] = np.nan
    return pd.DataFrame({"age": age, "pain": pain, "label": np.where(ill, "ill", "well")})


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Return a folder with each hospital's table, a public pool and the server's test."""
    for number, site in enumerate(SITES):
        patients(120, number).to_csv(tmp_path / f"{site}.csv", index=False)
    patients(100, 10).drop(columns="label").to_csv(tmp_path / "pool.csv", index=False)
    patients(200, 11).to_csv(tmp_path / "test.csv", index=False)
    return tmp_path


def of_nodes(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the settings of a run in which every node holds its own table."""
    return {
        "model": "mlp",
        "data__source": "nodes",
        "data__classes": "well,ill",
        "data__server_test_size": 0,
        "public__source": str(folder / "pool.csv"),
        "public__size": 100,
        "public__subset_size": 50,
        "train__batch_size": 10,
        **changes,
    }


def run_hospitals(
    folder: Path, nodes: dict[str, dict[str, Any]] | None = None, **changes: Any
) -> tuple[RunFolder, InProcessGrid]:
    """Run a federation of real nodes, by default one a hospital."""
    from client_app.app import app

    run_settings = settings(folder / "runs", **of_nodes(folder, **changes))
    grid = InProcessGrid(InThisProcess(app), SimulatedClock())
    for site in SITES:
        own: dict[str, Any] = {"data-path": str(folder / f"{site}.csv")}
        own = own if nodes is None else nodes.get(site, own)
        grid.add_node(run_settings.flat(), {"client-name": site, "state-dir": str(folder / "state"), **own})
    return run_over(grid, run_settings, simulation=False), grid


@pytest.mark.parametrize("strategy", ["scarlet", "dsfl", "fedavg", "individual"])
def test_hospitals_learn_from_their_own_tables(strategy: str, hospitals: Path) -> None:
    folder, _ = run_hospitals(hospitals, strategy=strategy, num_rounds=8)
    last = folder.rounds()[-1]
    assert last["nodes"] == {"asked": 3, "answered": 3, "failed": []}
    assert last["clients"]["accuracy"] > 0.75


def test_the_server_scores_nothing_without_test_data_of_its_own(hospitals: Path) -> None:
    folder, _ = run_hospitals(hospitals, num_rounds=2)
    assert [line["server"]["accuracy"] for line in folder.rounds()] == [None, None]


def test_the_server_scores_on_its_own_test_data(hospitals: Path) -> None:
    folder, _ = run_hospitals(
        hospitals, strategy="fedavg", num_rounds=8, data__test_source=str(hospitals / "test.csv")
    )
    assert folder.rounds()[-1]["server"]["accuracy"] > 0.75


def test_the_run_folder_says_what_inputs_are_made_of(hospitals: Path) -> None:
    folder, _ = run_hospitals(hospitals, num_rounds=1, data__test_source=str(hospitals / "test.csv"))
    facts = json.loads(folder.data_file.read_text())
    pool = pd.read_csv(hospitals / "pool.csv")
    assert facts["classes"] == ["well", "ill"]
    assert facts["public pool"]["size"] == 100
    assert facts["server's test"] == 200
    assert facts["input"]["medians"] == {"age": pytest.approx(pool["age"].median())}
    assert facts["input"]["categories"] == {"pain": ["much", "none", "some"]}


def test_a_node_may_hold_the_pool_elsewhere(hospitals: Path) -> None:
    elsewhere = hospitals / "copy.csv"
    elsewhere.write_bytes((hospitals / "pool.csv").read_bytes())
    own = {"data-path": str(hospitals / "east.csv"), "public-path": str(elsewhere)}
    folder, _ = run_hospitals(hospitals, {"east": own}, num_rounds=1)
    assert folder.rounds()[-1]["nodes"]["answered"] == 3


def test_a_node_that_trains_its_part_of_a_source_may_hold_the_pool_elsewhere(hospitals: Path) -> None:
    elsewhere = hospitals / "copy.csv"
    elsewhere.write_bytes((hospitals / "pool.csv").read_bytes())
    run_settings = settings(
        hospitals,
        data__source=str(hospitals / "test.csv"),
        data__server_test_size=50,
        public__source="/nowhere/pool.csv",
        public__size=100,
        model="mlp",
    )
    client = load_client_data(run_settings, 1, 2, str(elsewhere))
    assert len(client.train) + len(client.test) == 75


def test_a_node_with_another_pool_is_refused(hospitals: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = hospitals / "other.csv"
    patients(100, 99).drop(columns="label").to_csv(other, index=False)
    own = {"data-path": str(hospitals / "east.csv"), "public-path": str(other)}
    with caplog.at_level(logging.INFO, "flwr"):
        folder, _ = run_hospitals(hospitals, {"east": own}, num_rounds=1)
    assert folder.rounds()[-1]["nodes"]["answered"] == 2
    assert "pool" in caplog.text


def test_a_site_with_fewer_classes_takes_part_and_says_which_are_absent(
    hospitals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(hospitals / "south.csv")
    table[table["label"] == "ill"].to_csv(hospitals / "south.csv", index=False)
    with caplog.at_level(logging.INFO, "flwr"):
        folder, _ = run_hospitals(hospitals, num_rounds=1)
    assert folder.rounds()[-1]["nodes"]["answered"] == 3
    assert "south holds 1 of the federation's 2 classes; it has no sample of well" in caplog.text


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no data-path": (
        {"partition-id": 0, "num-partitions": 3},
        {},
        'data.source = "nodes": every node needs data-path',
    ),
    "missing": (
        {"data-path": "/nowhere/x.csv"},
        {},
        'data-path = "/nowhere/x.csv": this path does not exist',
    ),
    "a run that splits": (
        {"data-path": "/nowhere/x.csv"},
        {
            "data__source": "digits",
            "data__classes": "",
            "public__source": "",
            "public__size": 100,
            "model": "cnn",
        },
        'this run splits data.source = "digits" over the nodes',
    ),
}


@pytest.mark.parametrize(("node", "run", "message"), WRONG.values(), ids=WRONG)
def test_a_node_whose_data_cannot_be_used_says_why(
    node: dict[str, Any], run: dict[str, Any], message: str, hospitals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flwr"), pytest.raises(FederationError):
        run_hospitals(hospitals, dict.fromkeys(SITES, node), data__server_test_size=100, **run)
    assert message in caplog.text


def test_an_unknown_label_is_named_with_its_row(hospitals: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.read_csv(hospitals / "north.csv")
    table.loc[7, "label"] = "perhaps"
    table.to_csv(hospitals / "north.csv", index=False)
    with caplog.at_level(logging.INFO, "flwr"):
        folder, _ = run_hospitals(hospitals, num_rounds=1)
    assert folder.rounds()[-1]["nodes"]["answered"] == 2
    assert "row 7: label 'perhaps' is none of the 2 classes well, ill" in caplog.text


def test_images_of_unequal_size_and_colour_become_alike(tmp_path: Path) -> None:
    """Three sites with their own cameras, and a pool from a fourth."""
    draw = np.random.default_rng(0)
    cameras = {"north": (20, "L"), "east": (30, "RGB"), "south": (24, "L"), "pool": (40, "RGB")}
    for place, (side, mode) in cameras.items():
        for label, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / place / ("" if place == "pool" else label)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(20):
                pixels = draw.normal(level, 30, (side, side)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{label}-{number}.png")
    nodes = {site: {"data-path": str(tmp_path / site)} for site in SITES}
    images: dict[str, Any] = {
        "model": "cnn",
        "data__classes": "dark,light",
        "data__channels": 1,
        "data__image_size": 16,
        "public__source": str(tmp_path / "pool"),
        "public__size": 40,
        "public__subset_size": 20,
        "train__learning_rate": 0.02,
    }
    folder, _ = run_hospitals(tmp_path, nodes, num_rounds=3, **images)
    assert folder.rounds()[-1]["nodes"]["answered"] == 3
    assert folder.rounds()[-1]["clients"]["accuracy"] > 0.9
    assert json.loads(folder.data_file.read_text())["input"]["shape"] == [1, 16, 16]


def test_hospitals_learn_from_files_of_instructions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each has ScaleFL-med's file: the image's path, an instruction, and a caption that tells the grade."""
    draw = np.random.default_rng(0)
    for place in (*SITES, "pool", "test"):
        rows = []
        (tmp_path / place).mkdir()
        for number in range(60):
            grade = number % 3
            pixels = draw.normal(40 + 80 * grade, 20, (8, 8)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f"{number}.png")
            instruction = "Grade this knee." if number % 2 else "Which grade is it?"
            rows.append(
                {"image": f"{number}.png", "instruction": instruction, "caption": f"The KL grade is {grade}."}
            )
        (tmp_path / place / "instructions.json").write_text(json.dumps(rows))
    files = {place: str(tmp_path / place / "instructions.json") for place in (*SITES, "pool", "test")}
    changes: dict[str, Any] = {
        "strategy": "scalefl",
        "model": "elastic-cnn",
        "data__classes": "0,1,2",
        "data__metric": "kappa",
        "data__test_source": files["test"],
        "public__source": files["pool"],
        "public__size": 60,
        "train__learning_rate": 0.02,
    }
    nodes = {site: {"data-path": files[site], "level": 4} for site in SITES}
    with caplog.at_level(logging.INFO, "flwr"):
        folder, _ = run_hospitals(tmp_path, nodes, num_rounds=4, **changes)
    line = folder.rounds()[-1]
    assert line["nodes"]["answered"] == 3
    assert line["levels"][-1]["grades"]["kappa"] > 0.6
    assert "the 2 instructions in column 'instruction' are not used" in caplog.text
