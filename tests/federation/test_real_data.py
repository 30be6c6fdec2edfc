"""A round of each method on each real data set, where they are at hand."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.federation import run_quickly
from tests.support.processes import PROJECT

DATA = PROJECT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data sets in {DATA}")

IMAGES: dict[str, Any] = {
    "model": "elastic-cnn",
    "data__max_samples": 600,
    "data__server_test_size": 200,
    "data__alpha": 1.0,
    "train__learning_rate": 0.05,
    "train__momentum": 0.9,
}
SETS: dict[str, dict[str, Any]] = {
    "cifar10": {
        **IMAGES,
        "data__source": f"{DATA}/cifar10/train.parquet",
        "data__test_source": f"{DATA}/cifar10/test.parquet",
        "public__source": f"{DATA}/cifar100-public/train.parquet",
    },
    "fashion-mnist": {
        **IMAGES,
        "data__source": f"{DATA}/fashion-mnist/train.parquet",
        "data__test_source": f"{DATA}/fashion-mnist/test.parquet",
    },
    "knee-oa": {
        **IMAGES,
        "data__source": f"{DATA}/knee-oa/train.parquet",
        "data__test_source": f"{DATA}/knee-oa/val.parquet",
        "data__group": "patient",
        "data__image_size": 32,
        "data__metric": "kappa",
    },
    "heart-disease": {
        "model": "mlp",
        "data__source": f"{DATA}/heart-disease/all.csv.gz",
        "data__label": "num",
        "data__classes": "0,1|2|3|4",
        "data__site": "site",
        "data__split": "natural",
        "data__categorical": "cp,restecg,slope,thal",
        "data__server_test_size": 150,
        "data__metric": "auroc",
        "train__learning_rate": 0.05,
        "train__batch_size": 16,
    },
}
CASES = [
    (name, strategy)
    for name in SETS
    for strategy in ("scarlet", "fedavg", "scalefl")
    if not (name == "heart-disease" and strategy == "scalefl")  # an MLP has no submodels
]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_a_round_on_real_data(name: str, strategy: str, tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, nodes=4, strategy=strategy, num_rounds=1, **SETS[name])
    line = folder.rounds()[-1]
    assert line["nodes"] == {"asked": 4, "answered": 4, "failed": []}
    assert line["server"]["accuracy"] > 0
    assert ("metric" in line["server"]) == ("data__metric" in SETS[name])


def test_four_hospitals_learn_more_together_than_their_majority_class(tmp_path: Path) -> None:
    together = {**SETS["heart-disease"], "num_rounds": 15, "train__epochs": 2}
    line = run_quickly(tmp_path, nodes=4, strategy="fedavg", **together).rounds()[-1]
    assert line["server"]["accuracy"] > 0.7
    assert line["server"]["metric"] > 0.8
