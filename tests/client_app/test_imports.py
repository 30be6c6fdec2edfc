"""What a node's process imports, which each message pays for anew; one such process for all tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
NODE = """
import json, sys

def imported():
    return sorted({".".join(name.split(".")[:2]) for name in sys.modules})

from flwr.app import Context, RecordDict
from client_app.node import Node
from protocol.messages import HelloRequest
import learning.training
by_itself = imported()

run = {"strategy": "fedavg", "model": "resnet20", "output-dir": sys.argv[1], "train.epochs": 1}
run |= {"data.max-samples": 200, "data.server-test-size": 50, "public.size": 50, "public.subset-size": 10}
for optimizer in ("sgd", "adamw"):
    config = {"partition-id": 0, "num-partitions": 2}
    node = Node(Context(1, 2, config, RecordDict(), {**run, "train.optimizer": optimizer}))
    request = HelloRequest("experiment").to_record()
    node.hello(request)
    side = node.method(request).client
    model = side.new_model()
    side.train(model, 1)
    side.evaluate(model)
print(json.dumps({"by itself": by_itself, "after training": imported()}))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what is imported with a node's code, and after it has trained a ResNet without a metric."""
    command = [sys.executable, "-c", NODE, str(tmp_path_factory.mktemp("runs"))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    modules: dict[str, list[str]] = json.loads(done.stdout)
    return modules


def test_a_node_that_trains_a_resnet_imports_no_library_of_language(imported: dict[str, list[str]]) -> None:
    assert not {"transformers", "peft", "tokenizers"} & set(imported["after training"])


def test_training_does_not_import_torch_s_compiler(imported: dict[str, list[str]]) -> None:
    """With either optimizer."""
    assert "torch._dynamo" not in imported["after training"]


def test_a_node_without_a_metric_does_not_import_scikit_learn(imported: dict[str, list[str]]) -> None:
    assert "sklearn" not in imported["by itself"]
