import pytest
import torch

from models import build_model, count_parameters
from models.mlp import MLP


@pytest.mark.parametrize("shape", [(13,), (1,), (1, 8, 8), (3, 4, 5)])
def test_inputs_of_any_shape_become_logits(shape):
    assert MLP(shape, num_classes=7)(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("features", "classes"), [(13, 2), (1, 5), (20, 77)])
def test_its_parameters_are_those_of_two_hidden_layers(features, classes):
    expected = (features + 1) * 64 + (64 + 1) * 32 + (32 + 1) * classes
    assert count_parameters(MLP((features,), classes)) == expected


def test_hidden_layers_do_not_pass_on_what_is_below_zero():
    model = MLP((2,), 3)
    first, second, last = model.layers[1], model.layers[3], model.layers[5]
    torch.nn.init.constant_(second.bias, -1e6)
    assert torch.equal(model(torch.rand(4, 2)), last.bias.expand(4, 3))
    torch.nn.init.zeros_(second.bias)
    torch.nn.init.constant_(first.bias, -1e6)
    assert torch.equal(model(torch.rand(4, 2)), last.bias.expand(4, 3))


def test_one_row_trains_it_too():
    model = build_model("mlp", (5,), 2, seed=0)
    model(torch.rand(1, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_inputs_without_numbers_are_refused():
    with pytest.raises(ValueError, match="texts"):
        MLP((), 2)
