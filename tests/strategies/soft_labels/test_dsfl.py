import pytest
import torch

from strategies.soft_labels.dsfl import era
from tests.strategies.sides import tiny_settings
from tests.strategies.soft_labels.exchange import DistillationSpy, Federation
from tests.strategies.soft_labels.recorded import RECORDED

ROUNDS = 4


@pytest.mark.parametrize("case", RECORDED["dsfl_era"])
def test_era_equals_the_official_code(case):
    reduced = era(torch.tensor([case["mean"]]), case["temperature"])

    torch.testing.assert_close(reduced, torch.tensor([case["out"]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_era_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        era(torch.tensor([[0.5, 0.5]]), temperature)


@pytest.fixture
def federation(monkeypatch, tmp_path):
    settings = tiny_settings(strategy="dsfl", distillation__labels="float32", scarlet__cache_duration=5)
    return Federation(settings, tmp_path, DistillationSpy(monkeypatch))


def test_every_round_asks_for_the_whole_subset_and_sends_all_its_labels(federation):
    classes, subset = 3, federation.settings.public.subset_size
    for round in range(1, ROUNDS + 1):
        for exchange in federation.play().values():
            assert len(exchange.reply.labels) == subset * classes * 4
            assert len(exchange.request.labels) == (subset * classes * 4 if round > 1 else 0)


def test_labels_are_what_era_makes_of_the_mean_prediction(federation):
    exchanges = federation.play()

    predictions = [
        torch.frombuffer(bytearray(x.reply.labels), dtype=torch.float32) for x in exchanges.values()
    ]
    mean = torch.stack(predictions).double().mean(dim=0).reshape(-1, 3)
    labels = torch.tensor(list(federation.spy.server.values()))
    assert torch.equal(labels, era(mean, federation.settings.dsfl.temperature))


def test_paper_bytes_are_the_closed_formula(federation):
    per_label, subset = 4 * 3 + 8, federation.settings.public.subset_size
    for round in range(1, ROUNDS + 1):
        for name, outgoing in federation.begin().items():
            labels_down = subset if round > 1 else 0
            assert outgoing.paper_down == 8 * subset + labels_down * per_label
            incoming = federation.server.accept(
                name, round, federation.nodes[name].handle(outgoing.content).content
            )
            assert incoming.paper_up == subset * per_label
        federation.finish()


def test_a_tiny_temperature_picks_the_largest_class():
    mean = torch.tensor([[0.2, 0.5, 0.3]])
    assert era(mean, 1e-320).tolist() == [[0.0, 1.0, 0.0]]
