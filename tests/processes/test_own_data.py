"""Two SuperNodes as real processes, each with a table of its own on its own disk."""

import pytest

from tests.federation.test_own_data import patients
from tests.support.processes import deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROUNDS = 2


def test_hospitals_with_their_own_tables_train_over_grpc(tmp_path):
    sites = ("north", "south")
    for number, site in enumerate(sites):
        (tmp_path / site).mkdir()
        patients(120, number).to_csv(tmp_path / site / "patients.csv", index=False)
        patients(100, 10).drop(columns="label").to_csv(tmp_path / site / "pool.csv", index=False)
    run = (
        f'strategy="scarlet" model="mlp" num-rounds={ROUNDS} train.epochs=20 train.batch-size=10 '
        "round-timeout=120.0 "
        'data.source="nodes" data.classes="well,ill" data.server-test-size=0 public.size=100 '
        f'public.subset-size=50 public.source="{tmp_path}/north/pool.csv"'
    )
    with deployment(tmp_path) as flower:
        flower.start_superlink()
        for site in sites:
            flower.start_supernode(
                f'client-name="{site}" state-dir="{tmp_path}/{site}/state" '
                f'data-path="{tmp_path}/{site}/patients.csv" public-path="{tmp_path}/{site}/pool.csv"'
            )
        flower.start_run(run)
        wait_for(lambda: len(flower.rounds()) >= ROUNDS, 300, "all rounds")
        wait_for((flower.run_folder() / "summary.txt").exists, 60, "the table")
        rounds = flower.rounds()

    for line in rounds:
        assert line["nodes"] == {"asked": 2, "answered": 2, "failed": []}
        assert line["server"]["accuracy"] is None
    assert rounds[-1]["clients"]["accuracy"] > 0.6
    for site in sites:
        assert list((tmp_path / site / "state").rglob("*.safetensors")), "each keeps its model and labels"
