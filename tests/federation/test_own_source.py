"""A federation that learns from series of a user's own source with a user's own network."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.errors import SettingsError
from tests.support.federation import run_quickly, without_times
from tests.support.packages import user_package

SERIES = """
    from typing import ClassVar

    import torch
    from torch.utils.data import Dataset

    from protocol.tables import Table


    class Waves(Table):
        place: ClassVar[str] = "custom.waves"
        steps: int = 24


    class Series(Dataset):
        def __init__(self, settings):
            steps = settings.of(Waves).steps
            draw = torch.Generator().manual_seed(0)
            self.labels = torch.arange(300) % 3
            time = torch.linspace(0, 6, steps)
            phase = 6 * torch.rand(300, 1, generator=draw)
            waves = torch.sin((1 + self.labels[:, None]) * time + phase)
            noise = torch.randn(300, steps, 2, generator=draw)
            self.series = torch.stack([waves, waves.roll(1, 1)], dim=2) + 0.1 * noise

        def __len__(self):
            return len(self.series)

        def __getitem__(self, row):
            return self.series[row], int(self.labels[row])
"""
NETWORKS = """
    from torch import nn


    class GRU(nn.Module):
        def __init__(self, input_shape, num_classes):
            super().__init__()
            _, channels = input_shape
            self.gru = nn.GRU(channels, 16, batch_first=True)
            self.head = nn.Linear(16, num_classes)

        def forward(self, series):
            return self.head(self.gru(series)[1][0])
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Yield the settings that name a user's series and network."""
    modules = {"series": SERIES, "networks": NETWORKS}
    with user_package(tmp_path_factory.mktemp("own"), modules) as package:
        yield {
            "data.source": f"{package}.series:Series",
            "model": f"{package}.networks:GRU",
            "data.alpha": 1.0,
            "data.server-test-size": 60,
            "public.size": 60,
            "public.subset-size": 40,
        }


LEARNING: dict[str, Any] = {
    "train.optimizer": "adamw",
    "train.learning-rate": 0.03,
    "train.epochs": 6,
    "train.batch-size": 16,
}


@pytest.mark.parametrize(("strategy", "party"), [("scarlet", "clients"), ("fedavg", "server")])
def test_a_network_learns_series_in_two_rounds(
    strategy: str, party: str, own: dict[str, Any], tmp_path: Any
) -> None:
    folder = run_quickly(tmp_path, 2, strategy=strategy, num_rounds=2, **own, **LEARNING)
    last = folder.rounds()[-1]
    assert last["nodes"] == {"asked": 2, "answered": 2, "failed": []}
    assert last[party]["accuracy"] > 0.6
    facts = json.loads(folder.data_file.read_text())
    assert facts["input"] == {"shape": [24, 2], "values": "as the source returns them"}
    assert facts["classes"] == ["0", "1", "2"]
    assert facts["server's test"] == 60


def test_two_runs_of_one_source_give_the_same_figures(own: dict[str, Any], tmp_path: Any) -> None:
    lines = [run_quickly(tmp_path / name, 2, num_rounds=2, **own).rounds() for name in "ab"]
    assert without_times(lines[0]) == without_times(lines[1])


def test_a_sources_own_setting_is_read(own: dict[str, Any], tmp_path: Any) -> None:
    folder = run_quickly(tmp_path, 2, num_rounds=1, **own, **{"custom.waves.steps": 10})
    assert json.loads(folder.data_file.read_text())["input"]["shape"] == [10, 2]


def test_a_sources_own_setting_is_idle_where_no_source_reads_it(own: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r"custom\.waves\.steps = 10: no code of custom/ that this run"):
        run_quickly(tmp_path, 2, num_rounds=1, **{"custom.waves.steps": 10})


def test_the_tables_of_test_and_pool_sources_are_read_too(own: dict[str, Any], tmp_path: Any) -> None:
    series = own["data.source"]
    changes = {"data.test-source": series, "data.server-test-size": 0, "public.source": series}
    folder = run_quickly(tmp_path, 2, num_rounds=1, **{**own, **changes, "custom.waves.steps": 10})
    assert json.loads(folder.data_file.read_text())["server's test"] == 300


@pytest.mark.parametrize(
    ("strategy", "model"), [("fedavg", "cnn"), ("scarlet", "elastic-bert-tiny"), ("scalefl", "elastic-cnn")]
)
def test_a_network_of_images_or_texts_is_refused_by_name(
    strategy: str, model: str, own: dict[str, Any], tmp_path: Any
) -> None:
    """A series has as many dimensions as texts, whose length and vocabulary make up their shape."""
    with pytest.raises(SettingsError, match=rf"model = '{model}': reads .*, but the data are arrays"):
        run_quickly(tmp_path, 2, strategy=strategy, num_rounds=1, **{**own, "model": model})


def test_changes_of_images_are_refused(own: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r'train\.augmentation = "shift": .* the data are not images'):
        run_quickly(tmp_path, 2, num_rounds=1, **{**own, "train.augmentation": "shift"})


def test_a_source_that_is_not_there_is_refused_by_its_setting(own: dict[str, Any], tmp_path: Any) -> None:
    missing = f"{own['data.source']}s#test"
    with pytest.raises(
        SettingsError, match=r'data\.test-source = ".*:Seriess": module .* defines no Seriess'
    ):
        run_quickly(tmp_path, 2, num_rounds=1, **{**own, "data.test-source": missing})
