import pytest
import torch
from torch import nn

from models import build_model, count_parameters
from models.registry import MODELS, require_inputs
from protocol.errors import SettingsError

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
"""Of digits, Fashion-MNIST and CIFAR."""
OF_TRANSFORMERS = ["elastic-bert", "elastic-bert-tiny", "elastic-vlm"]
IMAGE_MODELS = [name for name in MODELS if name not in OF_TRANSFORMERS]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_images_become_finite_logits_and_every_parameter_gets_a_gradient(name, shape):
    model = build_model(name, shape, num_classes=7, seed=0)
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))

    logits = model(images)
    logits.logsumexp(dim=1).sum().backward()

    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_same_seed_gives_the_same_weights_and_another_seed_others(name):
    first, second, other = (build_model(name, (1, 8, 8), 10, seed).state_dict() for seed in (3, 3, 4))

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_weights_do_not_depend_on_the_global_generator_and_leave_it_alone(name):
    torch.manual_seed(1)
    first = build_model(name, (1, 8, 8), 10, seed=0).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()

    second = build_model(name, (1, 8, 8), 10, seed=0).state_dict()

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_building_does_not_reseed_cuda(monkeypatch):
    def refuse(_seed):
        raise AssertionError("the CUDA generators were reseeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed", refuse)

    build_model("cnn", (1, 8, 8), 10, seed=0)


def test_unknown_name_is_refused_with_what_is_allowed():
    with pytest.raises(SettingsError) as refusal:
        build_model("vgg", (1, 8, 8), 10, seed=0)

    assert 'model = "vgg"' in str(refusal.value)
    assert all(name in str(refusal.value) for name in MODELS)


def test_a_row_of_a_table_becomes_logits_in_the_mlp():
    assert build_model("mlp", (13,), 2, seed=0)(torch.rand(4, 13)).shape == (4, 2)


@pytest.mark.parametrize("name", [name for name in IMAGE_MODELS if name != "mlp"])
def test_networks_for_images_refuse_the_rows_of_a_table(name):
    expected = (
        rf"^model = '{name}': reads images, but the data are a table's rows; allowed is \"mlp\"; a "
        r"column that names files of images is named in data.image$"
    )
    with pytest.raises(SettingsError, match=expected):
        build_model(name, (13,), 2, seed=0)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_networks_for_numbers_refuse_texts(name):
    expected = (
        rf"^model = '{name}': reads .*, but the data are texts; allowed is \"elastic-bert\", "
        r"\"elastic-bert-tiny\"$"
    )
    with pytest.raises(SettingsError, match=expected):
        require_inputs(name, (64, 4096), kind="texts")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("elastic-bert-tiny", (1, 8, 8), "reads texts, but the data are images"),
        ("elastic-bert-tiny", (13,), "reads texts, but the data are a table's rows"),
        ("elastic-vlm", (64, 4096), "reads images, but the data are texts"),
    ],
)
def test_networks_of_transformers_refuse_what_they_do_not_read(name, shape, message):
    with pytest.raises(SettingsError, match=message):
        build_model(name, shape, 2, seed=0)


def test_parameters_are_counted_and_buffers_are_not():
    assert count_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) == 3 * 4 + 4 + 2 * 4
