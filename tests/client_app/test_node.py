"""What a node is made of."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from client_app.node import STATE_FOLDER, Node
from protocol.errors import MessageError, SettingsError
from protocol.messages import HelloReply, HelloRequest
from strategies.scarlet.client import SoftLabelClient

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


def test_models_are_dealt_out_in_turn() -> None:
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
