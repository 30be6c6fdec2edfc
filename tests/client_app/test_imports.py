"""What a node's process imports, which each message pays for anew."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
HELLO = """
import sys
from flwr.app import Context, RecordDict
from client_app.node import Node
from protocol.messages import HelloRequest
run = {"strategy": "fedavg", "model": "resnet20", "output-dir": sys.argv[1]}
node = Node(Context(1, 2, {"partition-id": 0, "num-partitions": 2}, RecordDict(), run))
request = HelloRequest("experiment").to_record()
node.hello(request)
side = node.method(request).client
side.evaluate(side.new_model())
print(*sorted({"transformers", "peft", "tokenizers"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_a_node_that_trains_a_resnet_imports_no_library_of_language(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HELLO, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
