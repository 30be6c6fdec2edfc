"""Every method on texts, over the in-process grid."""

import pytest

from protocol.values import SUBMODEL_STRATEGIES
from tests.support.federation import run_quickly

WORDS = {"0": ("awful", "boring", "dull"), "1": ("lovely", "bright", "great")}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    rows = [
        f"a {WORDS[label][number % 3]} film number {number},{label}" for number in range(60) for label in "01"
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "strategy", ["scarlet", "dsfl", "fedavg", "individual", *sorted(SUBMODEL_STRATEGIES)]
)
def test_every_method_learns_from_texts(strategy, reviews, tmp_path):
    folder = run_quickly(
        tmp_path,
        nodes=4,
        strategy=strategy,
        model="elastic-bert-tiny",
        num_rounds=2,
        min_nodes=1,
        data__source=reviews,
        data__alpha=100.0,
        data__server_test_size=20,
        public__size=20,
        public__subset_size=10,
        text__length=12,
        text__vocabulary=120,
        train__optimizer="adamw",
        train__learning_rate=0.001,
        distillation__optimizer="adamw",
        distillation__learning_rate=0.001,
    )
    lines = list(folder.rounds())
    assert len(lines) == 2
    assert all(not line["nodes"]["failed"] for line in lines)
    assert 0 <= lines[-1]["clients"]["accuracy"] <= 1
    if strategy in SUBMODEL_STRATEGIES:
        assert all(0 <= level["accuracy"] <= 1 for level in lines[-1]["levels"])
