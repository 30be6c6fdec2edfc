"""Optimizers, built on torch's functional forms.

The classes in ``torch.optim`` import torch's compiler when they are instantiated. That takes about four
seconds, and a real node has a new process for each message.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from protocol.references import Registry
from protocol.settings import RunSettings

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_COPIES = 4
"""Copies per trainable parameter, for other optimizers: its value, its gradient and two moments."""


@dataclass(frozen=True)
class OptimizerOptions:
    """The options of an optimizer, which need not use all of them."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0


class Optimizer(Protocol):
    """Updates parameters in place by their gradients, and keeps its own state."""

    def step(self, gradients: list[Tensor]) -> None:
        """Take one step, given the gradient of each parameter."""


OptimizerMaker = Callable[[Sequence[Tensor]], Optimizer]
"""Makes a new optimizer of the given trainable parameters."""

OptimizerKind = Callable[[Sequence[Tensor], OptimizerOptions, RunSettings], "Optimizer | TorchOptimizer"]
"""What a setting names: a function that makes an optimizer, possibly one of torch's own."""


class SGD:
    """Stochastic gradient descent, with momentum and weight decay as in ``torch.optim.SGD``.

    Parameters
    ----------
    parameters
        The trainable parameters.
    learning_rate, momentum, weight_decay
        As in ``torch.optim.SGD``.
    """

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
            foreach=self._parameters[0].is_cuda,  # torch would determine it at every step
        )


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Parameters
    ----------
    parameters
        The trainable parameters.
    learning_rate, weight_decay
        As in ``torch.optim.AdamW``.
    """

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


class _Adapted:
    """Adapts an optimizer of ``torch.optim``, which reads gradients from the parameters."""

    def __init__(self, parameters: Sequence[Tensor], optimizer: "TorchOptimizer") -> None:
        self._parameters = list(parameters)
        self._optimizer = optimizer

    def step(self, gradients: list[Tensor]) -> None:
        """Take one step."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def make_sgd(parameters: Sequence[Tensor], options: OptimizerOptions, settings: RunSettings) -> SGD:
    """Return SGD.

    Parameters
    ----------
    parameters
        The trainable parameters.
    options
        Learning rate, momentum and weight decay.
    settings
        Of the run; not used.
    """
    return SGD(parameters, options.learning_rate, options.momentum, options.weight_decay)


def make_adamw(parameters: Sequence[Tensor], options: OptimizerOptions, settings: RunSettings) -> AdamW:
    """Return AdamW.

    Parameters
    ----------
    parameters
        The trainable parameters.
    options
        Learning rate and weight decay; the momentum is not used.
    settings
        Of the run; not used.
    """
    return AdamW(parameters, options.learning_rate, options.weight_decay)


OPTIMIZERS: Mapping[str, OptimizerKind] = {"sgd": make_sgd, "adamw": make_adamw}
_COPIES_OF: Mapping[OptimizerKind, int] = {make_sgd: 3, make_adamw: 4}


def _accept(found: object, reference: str) -> OptimizerKind:
    if not callable(found):
        raise TypeError(
            "must be a function of parameters, learning.optimizers.OptimizerOptions and the run's settings "
            "that returns an optimizer with step(gradients), or one of torch.optim"
        )
    return cast("OptimizerKind", found)


REGISTRY: Registry[OptimizerKind] = Registry("train.optimizer", OPTIMIZERS, _accept)


def optimizer_maker(name: str, options: OptimizerOptions, settings: RunSettings) -> OptimizerMaker:
    """Return a function that makes a run's optimizer.

    Parameters
    ----------
    name
        The value of ``train.optimizer`` or ``distillation.optimizer``.
    options
        Learning rate, momentum and weight decay.
    settings
        Of the run.

    Raises
    ------
    SettingsError
        If there is no such optimizer.
    """
    kind = REGISTRY.find(name)

    def make(parameters: Sequence[Tensor]) -> Optimizer:
        made = kind(parameters, options, settings)
        if hasattr(made, "param_groups"):
            return _Adapted(parameters, cast("TorchOptimizer", made))
        return made

    return make


def copies_of(name: str) -> int:
    """Return how many numbers are kept per parameter: its value, its gradient and the optimizer's state."""
    return _COPIES_OF.get(REGISTRY.find(name), _COPIES)
