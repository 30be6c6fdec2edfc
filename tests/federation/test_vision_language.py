"""ScaleFL-med over the in-process grid: four clients, one at each level, and every merge of adapters."""

import json

import pytest
import torch

from models import load_weights
from protocol.errors import SettingsError
from server_app.export import export, load_submodel
from tests.support.federation import run_quickly

SMALL = {
    "model": "elastic-vlm",
    "num_rounds": 2,
    "min_nodes": 1,
    "data__alpha": 100.0,
    "data__max_samples": 120,
    "data__server_test_size": 20,
    "data__metric": "kappa",
    "public__size": 20,
    "public__subset_size": 10,
    "train__epochs": 1,
    "train__batch_size": 8,
    "train__optimizer": "adamw",
    "train__learning_rate": 0.001,
    "lora__rank": 8,
}


def run_small(output, **changes):
    return run_quickly(output, nodes=4, **{**SMALL, **changes})


@pytest.mark.parametrize("merge", ["count", "zero-pad", "svd", "stack"])
def test_levels_learn_together_whatever_the_merge(merge, tmp_path):
    folder = run_small(tmp_path, strategy="scalefl", lora__merge=merge)
    lines = list(folder.rounds())
    assert [line["nodes"]["answered"] for line in lines] == [4, 4]
    assert [level["level"] for level in lines[-1]["levels"]] == [1, 2, 3, 4]
    grades = [level["grades"] for level in lines[-1]["levels"]]
    assert all(set(each) == {"accuracy", "macro_f1", "mean_absolute_error", "kappa"} for each in grades)
    assert len(lines[-1]["grades"]["exits"]) == 4


@pytest.mark.parametrize("strategy", ["scarlet", "fedavg", "fedavg-smallest", "fedavg-largest", "depthfl"])
def test_other_methods_train_it_too(strategy, tmp_path):
    lines = list(run_small(tmp_path, strategy=strategy).rounds())
    assert len(lines) == 2
    assert all(not line["nodes"]["failed"] for line in lines)


def test_adapters_norms_and_projector_alone_are_kept_and_exported(tmp_path):
    folder = run_small(tmp_path, strategy="scalefl", num_rounds=1)
    weights, _ = load_weights(folder.models / "server.safetensors")
    assert weights
    assert all("lora_" in name or "projector" in name or name.startswith("norms.") for name in weights)
    with pytest.raises(
        SettingsError, match=r'^--format onnx: model = "elastic-vlm" cannot be exported to ONNX'
    ):
        export(folder.path, 1, tmp_path / "level1.onnx", "onnx")
    export(folder.path, 1, tmp_path / "level1.safetensors")
    submodel = load_submodel(tmp_path / "level1.safetensors")
    with torch.no_grad():
        assert submodel(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = run_small(tmp_path / "whole", strategy="scalefl")
    run_small(tmp_path / "halves", strategy="scalefl", num_rounds=1)
    (first,) = (tmp_path / "halves").iterdir()
    halves = run_small(tmp_path / "halves", strategy="scalefl", resume=str(first))
    figures = [
        json.dumps({key: line[key] for key in ("levels", "clients", "server")})
        for folder in (whole, halves)
        for line in folder.rounds()
        if line["round"] == 2
    ]
    assert figures[0] == figures[1]
