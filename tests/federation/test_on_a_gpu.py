"""Whole runs on a card, beside the same on a CPU."""

from pathlib import Path

import pytest
import torch

from tests.federation.test_vision_language import run_small
from tests.support.federation import run_quickly

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

METHODS = {
    "scarlet": "resnet20",
    "dsfl": "cnn",
    "fedavg": "mlp",
    "individual": "cnn",
    "scalefl": "elastic-resnet20",
    "fedrolex": "elastic-cnn",
    "federated-dropout": "elastic-cnn",
    "depthfl": "elastic-msdnet24",
}


@pytest.mark.parametrize("strategy", METHODS)
def test_a_run_on_a_card_learns_what_one_on_a_cpu_does(strategy: str, tmp_path: Path) -> None:
    on_cpu, on_card = (
        list(
            run_quickly(
                tmp_path / device, strategy=strategy, model=METHODS[strategy], device=device, num_rounds=2
            ).rounds()
        )
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(on_card, on_cpu, strict=True):
        assert ours["nodes"] == theirs["nodes"]
        assert ours["clients"]["accuracy"] == pytest.approx(theirs["clients"]["accuracy"], abs=0.1)


@pytest.mark.parametrize("merge", ["count", "zero-pad", "svd", "stack"])
def test_a_second_run_finds_the_base_where_the_first_left_it(merge: str, tmp_path: Path) -> None:
    for run in ("first", "second"):
        folder = run_small(tmp_path / run, strategy="scalefl", lora__merge=merge, device="cuda")
        assert all(not line["nodes"]["failed"] for line in folder.rounds())
