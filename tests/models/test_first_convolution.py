import pytest
import torch
from torch import nn

from models.first_convolution import first_convolution, fit_channels, for_channels


def colour_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()), nn.Conv2d(4, 5, 1)
    )


def test_grey_images_are_answered_as_the_same_picture_in_three_colours():
    colour, grey = colour_network(), colour_network()
    fit_channels(grey, 1)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(grey(images), colour(images.expand(2, 3, 8, 8)))


def test_more_channels_repeat_the_kernel_in_turn_and_keep_its_size():
    kernel = torch.rand(4, 3, 1, 1)
    six = for_channels(kernel, 6)
    torch.testing.assert_close(six.sum(dim=1), kernel.sum(dim=1))
    assert torch.equal(for_channels(kernel, 4)[:, 3], for_channels(kernel, 4)[:, 0])


def test_a_kernel_for_grey_images_takes_colour():
    kernel = torch.rand(4, 1, 3, 3)
    torch.testing.assert_close(for_channels(kernel, 3).sum(dim=1, keepdim=True), kernel)


def test_all_but_the_channels_of_the_first_convolution_stays():
    network = colour_network()
    fit_channels(network, 5)
    name, first = first_convolution(network)
    assert (name, first.in_channels, first.stride, first.padding) == ("0.0", 5, (2, 2), (1, 1))
    assert torch.equal(first.bias, colour_network()[0][0].bias)


def test_the_right_channels_change_nothing():
    network = colour_network()
    before = network[0][0]
    fit_channels(network, 3)
    assert network[0][0] is before


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), "it has no convolution that could take 1 channels"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), "its first convolution 0 treats 3 channels apart"),
    ],
)
def test_networks_without_such_a_convolution_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        fit_channels(network, 1)
