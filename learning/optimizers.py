"""Rules of a training step, by torch's functional forms.

The classes in ``torch.optim`` import torch's compiler when one is made, which takes a node's process about
four seconds, and a real node has a fresh process for each message.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

OptimizerName = Literal["sgd", "adamw"]

COPIES: Mapping[OptimizerName, int] = {"sgd": 3, "adamw": 4}
"""Of each parameter that learns: its value, its gradient, and the momentum or both moments."""

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Optimizer(Protocol):
    """Changes parameters in place by their gradients; owns what it remembers of steps before."""

    def step(self, gradients: list[Tensor]) -> None:
        """Take one step, given the gradient of each parameter."""


class SGD:
    """Stochastic gradient descent, with momentum and weight decay as torch has them."""

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        self._parameters = list(parameters)
        self._velocities: list[Tensor | None] = [None] * len(self._parameters)
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Take one step."""
        sgd(
            self._parameters,
            gradients,
            self._velocities,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self._learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            foreach=self._parameters[0].is_cuda,  # what torch would find out at every step
        )


class AdamW:
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019)."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.tensor(0.0) for _ in self._parameters]
        self._learning_rate = learning_rate
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Take one step."""
        first, second = BETAS
        adamw(
            self._parameters,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            foreach=self._parameters[0].is_cuda,
            amsgrad=False,
            beta1=first,
            beta2=second,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )


def optimizer_of(
    name: OptimizerName,
    parameters: Sequence[Tensor],
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Return an optimizer that has taken no step; ``momentum`` is SGD's."""
    match name:
        case "sgd":
            return SGD(parameters, learning_rate, momentum, weight_decay)
        case "adamw":
            return AdamW(parameters, learning_rate, weight_decay)
