"""A multilayer perceptron, for the rows of a table."""

import math

from torch import Tensor, nn

WIDTHS = (64, 32)


class MLP(nn.Module):
    """Two hidden layers with ReLU; no norm, so that a client with few rows trains it too.

    Parameters
    ----------
    input_shape
        (features,); of other inputs all numbers are features.
    num_classes
        Number of classes.

    Raises
    ------
    ValueError
        If the inputs are texts, which have no shape.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        if not input_shape:
            raise ValueError("an MLP reads numbers, not texts")
        first, second = WIDTHS
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, num_classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(batch, *input_shape)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.layers(inputs)
        return logits
