import pytest
import torch

from protocol.device import choose_device
from protocol.errors import SettingsError


@pytest.fixture
def gpu(monkeypatch, request):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)


@pytest.mark.parametrize(
    ("gpu", "name", "expected"),
    [(True, "auto", "cuda"), (False, "auto", "cpu"), (True, "cpu", "cpu"), (True, "cuda", "cuda")],
    indirect=["gpu"],
)
@pytest.mark.usefixtures("gpu")
def test_auto_takes_a_gpu_where_there_is_one(name, expected):
    assert choose_device(name).type == expected


@pytest.mark.parametrize("gpu", [False], indirect=True)
@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_not_there_is_refused_with_what_is_allowed():
    with pytest.raises(SettingsError, match=r'device = "cuda": .* no usable GPU; allowed here: auto, cpu'):
        choose_device("cuda")
