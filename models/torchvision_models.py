"""Networks of torchvision, fitted to the images at hand."""

from torch import nn

SMALL_IMAGE = 64


def resnet18(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 (He et al. 2016, table 1) with untrained weights.

    The first convolution takes the images' channels. For images of at most 64 pixels a side it is the
    usual adaptation of that table to small images: 3x3 with stride 1 in place of 7x7 with stride 2,
    and no max pooling after it, so that an 8x8 image still has one position left at the end.

    Parameters
    ----------
    image_shape
        Channels, height and width.
    num_classes
        Width of the output.

    Returns
    -------
    nn.Module
        Maps images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``.
    """
    import torchvision  # takes seconds, and most runs do without it

    model: nn.Module = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    channels, *sides = image_shape
    if max(sides) <= SMALL_IMAGE:
        model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    else:
        model.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    return model
