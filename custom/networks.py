"""A network: its constructor takes the shape of one input and the number of classes.

model = "custom.networks:GRU"
"""

from torch import Tensor, nn


class GRU(nn.Module):
    """A gated recurrent network (Cho et al. 2014) for series, and a linear layer on its last state.

    Parameters
    ----------
    input_shape
        (steps, channels).
    num_classes
        Number of classes.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        _, channels = input_shape
        self.gru = nn.GRU(channels, 32, batch_first=True)
        self.head = nn.Linear(32, num_classes)

    def forward(self, series: Tensor) -> Tensor:
        """Map ``(batch, steps, channels)`` to logits ``(batch, num_classes)``."""
        _, last = self.gru(series)
        logits: Tensor = self.head(last[0])
        return logits
