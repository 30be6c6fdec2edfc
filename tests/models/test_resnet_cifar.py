import pytest
import torch
from torch import nn

from models import build_model, count_parameters
from models.resnet_cifar import CifarResNet, ResidualBlock


def parameters_by_hand(blocks):
    """He et al. 2016, section 4.2, option A: convolutions without bias, two numbers a channel and norm."""
    stem = 3 * 16 * 9 + 2 * 16
    stages = 0
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        convolutions = inputs * outputs * 9 + (2 * blocks - 1) * outputs * outputs * 9
        stages += convolutions + 2 * blocks * 2 * outputs
    return stem + stages + 64 * 10 + 10


def test_resnet20_has_the_parameters_of_the_paper():
    assert (
        count_parameters(build_model("resnet20", (3, 32, 32), 10, seed=0)) == parameters_by_hand(3) == 269_722
    )


def test_resnet32_has_the_parameters_of_the_paper():
    assert (
        count_parameters(build_model("resnet32", (3, 32, 32), 10, seed=0)) == parameters_by_hand(5) == 464_154
    )


@pytest.mark.parametrize("depth", [20, 32, 44])
def test_depth_counts_the_convolutions_and_the_linear_layer(depth):
    model = CifarResNet(depth, (3, 32, 32), 10)

    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == depth


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth = {depth}"):
        CifarResNet(depth, (3, 32, 32), 10)


def test_shortcut_takes_every_second_pixel_and_fills_new_channels_with_zeros():
    block = ResidualBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.norm2.weight)
    images = torch.rand(1, 2, 8, 8)

    out = block(images)

    assert torch.equal(out[:, :2], images[:, :, ::2, ::2])
    assert torch.equal(out[:, 2:], torch.zeros(1, 2, 4, 4))


def test_convolutions_start_with_kaimings_variance():
    model = build_model("resnet20", (3, 32, 32), 10, seed=0)

    weight = model.get_parameter("stage3.2.conv2.weight")

    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
