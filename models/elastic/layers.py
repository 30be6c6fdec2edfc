"""The layers of elastic networks: PyTorch's own, with named channels on each axis of their parameters."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.elastic.channels import Axes, Channels


class ElasticConv2d(nn.Conv2d):
    """A convolution between named channels.

    Its output is divided by the network's width, like HeteroFL's scaler (Diao et al. 2021, section 3), so
    that the same weights work at every width. The division is applied to the weights, as there are far fewer
    of them than activations.

    Parameters
    ----------
    inputs, outputs
        Input and output channels.
    kernel_size, stride
        As in ``nn.Conv2d``. The padding is half the kernel.
    width
        The network's width w in (0, 1].
    depthwise
        Whether there is one filter per channel; ``outputs`` must then be ``inputs``.
    bias
        Whether it has a bias; it is not divided.
    """

    def __init__(
        self,
        inputs: Channels,
        outputs: Channels,
        kernel_size: int,
        stride: int = 1,
        *,
        width: float,
        depthwise: bool = False,
        bias: bool = False,
    ) -> None:
        groups = len(inputs) if depthwise else 1
        padding = (kernel_size - 1) // 2
        super().__init__(len(inputs), len(outputs), kernel_size, stride, padding, groups=groups, bias=bias)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.width = width
        self.axes: dict[str, Axes] = {"weight": (outputs, None if depthwise else inputs, None, None)}
        if self.bias is not None:
            nn.init.zeros_(self.bias)
            self.axes["bias"] = (outputs,)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, outputs, height/stride, width/stride)``."""
        weight = self.weight if self.width == 1 else self.weight / self.width
        return F.conv2d(features, weight, self.bias, self.stride, self.padding, groups=self.groups)


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over named channels.

    Its running statistics are not parameters: they are valid for one width only and are not shared between
    levels, see ``models.elastic.norms``.
    """

    def __init__(self, channels: Channels, eps: float = 1e-5) -> None:
        super().__init__(len(channels), eps=eps)
        self.axes: dict[str, Axes] = {"weight": (channels,), "bias": (channels,)}


class ElasticLinear(nn.Linear):
    """A fully connected layer between named features."""

    def __init__(self, inputs: Channels, outputs: Channels) -> None:
        super().__init__(len(inputs), len(outputs))
        self.axes: dict[str, Axes] = {"weight": (outputs, inputs), "bias": (outputs,)}


def convolution(
    inputs: Channels, outputs: Channels, kernel_size: int = 3, stride: int = 1, *, width: float
) -> nn.Sequential:
    """Return a convolution, batch norm and ReLU.

    Parameters
    ----------
    inputs, outputs
        Input and output channels.
    kernel_size, stride
        As in ``nn.Conv2d``.
    width
        The network's width in (0, 1].
    """
    return nn.Sequential(
        ElasticConv2d(inputs, outputs, kernel_size, stride, width=width),
        ElasticBatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
