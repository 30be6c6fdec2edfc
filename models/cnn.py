"""A small convolutional network that a weak device trains in milliseconds."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 48)
CHANNELS_PER_GROUP = 4
SMALLEST_GRID = 4


class SmallCNN(nn.Module):
    """Two blocks of 3x3 convolution, max pooling, GroupNorm and ReLU, then a linear layer.

    GroupNorm (Wu & He 2018) in place of batch norm: its output for a sample does not depend on the
    rest of the batch, and it has no running statistics that skewed clients would disagree on.

    The norm comes after the pooling, and the convolutions start from Kaiming's weights (He et al. 2015).
    After one epoch of plain SGD at 0.1 over 800 handwritten digits this was right on 90 % of the others;
    with the norm before the pooling on 86 %, without norm on 68 %, from PyTorch's default weights on 67 %
    (means of four seeds).

    The windows of the second pooling follow from the image size and never overlap, so that 4 to 7
    positions a side remain. ``AdaptiveMaxPool2d`` would overlap them, and its gradient on CUDA is not
    deterministic.

    Parameters
    ----------
    image_shape
        Channels, height and width; each side at least 8.
    num_classes
        Number of classes.
    """

    def __init__(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        halves = [side // 2 for side in sides]
        self.windows = [max(1, half // SMALLEST_GRID) for half in halves]
        rows, columns = (half // window for half, window in zip(halves, self.windows, strict=True))
        first, second = WIDTHS
        self.conv1 = _convolution(channels, first)
        self.norm1 = nn.GroupNorm(first // CHANNELS_PER_GROUP, first)
        self.conv2 = _convolution(first, second)
        self.norm2 = nn.GroupNorm(second // CHANNELS_PER_GROUP, second)
        self.head = nn.Linear(second * rows * columns, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``."""
        features = F.max_pool2d(self.conv1(images), 2)
        features = F.relu(self.norm1(features))
        features = self.conv2(features)
        if self.windows != [1, 1]:  # at 8x8 the pooling would only copy, for a fifth of a step's time
            features = F.max_pool2d(features, self.windows)
        features = F.relu(self.norm2(features))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution
