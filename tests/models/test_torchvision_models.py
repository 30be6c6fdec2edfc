import importlib
import sys

import pytest
import torch
from torch import nn

from models import build_model, count_parameters, torchvision_models


def test_large_images_get_the_published_network():
    model = build_model("resnet18", (3, 224, 224), 1000, seed=0)

    assert count_parameters(model) == 11_689_512
    assert model.get_submodule("conv1").kernel_size == (7, 7)
    assert isinstance(model.get_submodule("maxpool"), nn.MaxPool2d)


@pytest.mark.parametrize(("side", "left"), [(8, 1), (32, 4), (64, 8)])
def test_small_images_are_halved_three_times_only(side, left):
    model = build_model("resnet18", (3, side, side), 10, seed=0)
    seen = []
    model.get_submodule("layer4").register_forward_hook(lambda _module, _inputs, out: seen.append(out.shape))

    model(torch.zeros(2, 3, side, side))

    assert seen == [(2, 512, left, left)]


@pytest.mark.parametrize("side", [32, 128])
def test_first_convolution_takes_grey_images(side):
    model = build_model("resnet18", (1, side, side), 10, seed=0)

    assert model(torch.zeros(2, 1, side, side)).shape == (2, 10)


def test_torchvision_is_not_imported_before_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes every import of it fail

    module = importlib.reload(torchvision_models)

    with pytest.raises(ImportError):
        module.resnet18((3, 32, 32), 10)
