"""What a node is made of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

import client_app.node
from client_app.capability import Need
from client_app.node import STATE_FOLDER, Node
from models.elastic import Shape
from protocol.device import Place
from protocol.errors import MessageError, SettingsError
from protocol.messages import HelloReply, HelloRequest
from strategies.soft_labels.client import SoftLabelClient

EXPERIMENT = "20260101-120000-scarlet-digits-abcd"


def node(run: dict[str, Any], **config: Any) -> Node:
    """Return a node as a message finds it; dashes in keys are written as underscores."""
    node_config = {key.replace("_", "-"): value for key, value in config.items()}
    return Node(Context(1, 2, node_config, RecordDict(), run))


def simulated(run: dict[str, Any], part: int = 0) -> Node:
    return node(run, partition_id=part, num_partitions=5)


def state_folder(of: Node) -> Path:
    method = of.method(HelloRequest(EXPERIMENT).to_record())
    assert isinstance(method, SoftLabelClient)
    return method._client.store.folder


# --- models ------------------------------------------------------------------------------------


def test_models_are_assigned_round_robin() -> None:
    run = {"models": "cnn, resnet20,resnet32"}
    assert [simulated(run, part).model_name for part in range(5)] == [
        "cnn",
        "resnet20",
        "resnet32",
        "cnn",
        "resnet20",
    ]


def test_a_nodes_own_model_comes_first() -> None:
    own = node({"models": "cnn,resnet20"}, partition_id=0, num_partitions=2, model="resnet18")
    assert own.model_name == "resnet18"


def test_without_models_every_node_runs_the_runs_model() -> None:
    assert simulated({"model": "resnet20"}).model_name == "resnet20"


def test_fedavg_with_another_model_is_refused() -> None:
    other = node({"strategy": "fedavg"}, partition_id=0, num_partitions=2, model="resnet20")
    with pytest.raises(SettingsError, match=r"model = 'resnet20' \(node-config\): .* must run 'cnn'"):
        other.hello(HelloRequest(EXPERIMENT).to_record())


# --- levels ------------------------------------------------------------------------------------

ELASTIC = {"strategy": "scalefl", "model": "elastic-cnn"}
REAL = {"client_name": "clinic", "partition_id": 0, "num_partitions": 2}


def level_of(node: Node) -> tuple[int | None, str | None]:
    hello = HelloReply.from_record(node.hello(HelloRequest(EXPERIMENT).to_record()))
    return hello.level, hello.level_reason


def test_simulated_nodes_are_assigned_levels_by_the_shares(tmp_path: Path) -> None:
    run = {**ELASTIC, "output-dir": str(tmp_path), "levels.shares": "0.2,0.2,0.2,0.4"}
    assigned = [level_of(simulated(run, part)) for part in range(5)]
    assert sorted(level for level, _ in assigned) == [1, 2, 3, 4, 4]
    assert {reason for _, reason in assigned} == {'assigned by levels.shares = "0.2,0.2,0.2,0.4"'}


@pytest.mark.parametrize("who", [REAL, {"partition_id": 0, "num_partitions": 2}], ids=["real", "simulated"])
def test_a_nodes_own_level_comes_first(who: dict[str, Any], tmp_path: Path) -> None:
    assert level_of(node(ELASTIC, **who, state_dir=str(tmp_path), level=3)) == (3, "set in its node-config")


def test_a_level_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"level = 5 \(node-config\): there are levels 1 to 4"):
        level_of(node(ELASTIC, **REAL, state_dir=str(tmp_path), level=5))


@pytest.mark.parametrize("run", [{"model": "cnn"}, {"strategy": "fedavg", "model": "elastic-cnn"}])
def test_a_network_that_is_trained_whole_has_no_level(run: dict[str, Any], tmp_path: Path) -> None:
    assert level_of(node(run, **REAL, state_dir=str(tmp_path), level=1)) == (None, None)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let levels need 1 to 4 MB and as many seconds, and note every measurement."""
    calls: list[str] = []

    def measure(run: Any, model: str, *others: Any) -> list[Need]:
        calls.append(model)
        return [
            Need(level, Shape(1.0, (level,)), level, level * 10**6, 0.1, float(level))
            for level in (1, 2, 3, 4)
        ]

    monkeypatch.setattr(client_app.node, "measure", measure)
    return calls


def test_a_real_node_measures_itself_unless_told_its_level(measured: list[str], tmp_path: Path) -> None:
    budget = {"memory_budget": 0.0025}
    for config in ({}, {"level": "auto"}):
        folder = str(tmp_path / str(len(config)))
        level, reason = level_of(node(ELASTIC, **REAL, state_dir=folder, **budget, **config))
        assert (level, reason) == (2, "fits: 2 MB, 2 s a round; level 3 needs 3 MB of 2.5 MB")
    assert measured == ["elastic-cnn"] * 2


def test_a_node_measures_itself_once_in_an_experiment(measured: list[str], tmp_path: Path) -> None:
    for _ in range(3):
        of = node(ELASTIC, **REAL, state_dir=str(tmp_path), seconds_per_round_budget=3.5)
        assert level_of(of)[0] == 3
    assert len(measured) == 1
    assert (tmp_path / EXPERIMENT / "clinic" / "level.json").is_file()


def test_a_node_whose_budget_changes_measures_itself_anew(measured: list[str], tmp_path: Path) -> None:
    levels = [
        level_of(node(ELASTIC, **REAL, state_dir=str(tmp_path), seconds_per_round_budget=seconds))[0]
        for seconds in (3.5, 1.0, 9.0)
    ]
    assert levels == [3, 1, 4]
    assert len(measured) == 3


def test_a_node_whose_share_of_the_gpu_changes_measures_itself_anew(
    measured: list[str], tmp_path: Path
) -> None:
    for share in (1.0, 1.0, 2.0):
        level_of(node(ELASTIC, **REAL, state_dir=str(tmp_path), device="cpu", gpu_memory=share))
    assert len(measured) == 2


# --- devices -----------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """Let every device be a GPU that works, and note what is asked for."""
    calls: list[tuple[str, float | None]] = []

    def find_place(name: str, gpu_memory: float | None) -> Place:
        calls.append((name, gpu_memory))
        return Place(torch.device("cuda"))

    monkeypatch.setattr(client_app.node, "find_place", find_place)
    return calls


def test_a_nodes_own_device_comes_first_with_its_share_of_memory(
    asked: list[tuple[str, float | None]],
) -> None:
    run = {"device": "cpu"}
    node(run, **REAL, device="cuda:1", gpu_memory=4.0)
    node(run, **REAL)
    assert asked == [("cuda:1", 4.0), ("cpu", None)]


def test_a_node_says_what_is_not_as_asked(caplog: pytest.LogCaptureFixture) -> None:
    of = node({"precision": "fp16"}, **REAL, device="cpu", gpu_memory=4.0)
    assert of.notes == [
        "gpu-memory = 4 has no effect on a CPU",
        'precision = "fp16": it is slower than fp32 on a CPU, computing in fp32',
    ]
    assert [record.getMessage() for record in caplog.records if record.name == "flwr"] == of.notes


def test_a_node_without_the_runs_precision_computes_in_float32(tmp_path: Path) -> None:
    of = node({"precision": "fp16"}, **REAL, device="cpu", state_dir=str(tmp_path))
    method = of.method(HelloRequest(EXPERIMENT).to_record())
    assert isinstance(method, SoftLabelClient)
    assert method._client.arithmetic.precision == of.run.precision == "fp32"


@pytest.mark.usefixtures("asked")
def test_a_node_with_the_runs_precision_computes_in_it() -> None:
    of = node({"precision": "fp16"}, **REAL, device="cuda")
    assert (of.run.precision, of.notes) == ("fp16", [])


# --- parts -------------------------------------------------------------------------------------


def test_a_node_that_does_not_know_its_part_is_told_what_to_set() -> None:
    with pytest.raises(SettingsError, match=r"partition-id \(node-config\) is missing.*num-partitions"):
        node({}, client_name="clinic").hello(HelloRequest(EXPERIMENT).to_record())


def test_a_hello_says_who_the_node_is(tmp_path: Path) -> None:
    real = node({}, client_name="clinic", partition_id=1, num_partitions=2, state_dir=str(tmp_path))
    hello = HelloReply.from_record(real.hello(HelloRequest(EXPERIMENT).to_record()))
    assert (hello.client, hello.simulated, hello.model) == ("clinic", False, "cnn")
    assert hello.state_digests == b""
    same = HelloReply.from_record(
        simulated({"output-dir": str(tmp_path)}, 3).hello(HelloRequest("x").to_record())
    )
    assert (same.client, same.simulated) == ("client-0003", True)
    assert same.pool_digest == hello.pool_digest
    assert same.code_digest == hello.code_digest


# --- state -------------------------------------------------------------------------------------


def test_a_simulated_node_keeps_its_state_in_the_run_folder(tmp_path: Path) -> None:
    run = {"output-dir": str(tmp_path)}
    assert state_folder(simulated(run, 3)) == tmp_path / EXPERIMENT / "clients" / "client-0003"


def test_a_resumed_run_is_where_its_path_says(tmp_path: Path) -> None:
    run = {"output-dir": "/elsewhere", "resume": str(tmp_path / EXPERIMENT)}
    assert state_folder(simulated(run)) == tmp_path / EXPERIMENT / "clients" / "client-0000"


def test_a_real_node_keeps_its_state_where_its_config_says(tmp_path: Path) -> None:
    real = {"client_name": "clinic", "partition_id": 0, "num_partitions": 2}
    assert state_folder(node({}, **real, state_dir=str(tmp_path))) == tmp_path / EXPERIMENT / "clinic"
    assert state_folder(node({}, **real)) == STATE_FOLDER.expanduser() / EXPERIMENT / "clinic"


def test_an_experiment_that_would_lead_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="is not a plain name"):
        simulated({"output-dir": str(tmp_path)}).method(HelloRequest("../../etc").to_record())


# --- a checkpoint --------------------------------------------------------------------------------


def test_a_node_that_keeps_the_checkpoint_elsewhere_begins_with_it_from_there() -> None:
    run = {"pretrained": "owner/vlm"}
    assert simulated(run, 0).run.pretrained == "owner/vlm"
    assert node(run, **REAL, model_path="/srv/vlm").run.pretrained == "/srv/vlm"
