"""A user's networks: one that works and holds all kinds of state, and ones that do not work."""

import torch
from torch import nn


class Odd(nn.Module):
    """A network whose state has all that states can have: tied and frozen weights, integers, scalars."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        channels, _, _ = input_shape
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.mixing = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.mixing.weight
        self.head = nn.Linear(8, num_classes)
        self.unused = nn.Parameter(torch.zeros(3))
        self.register_buffer("order", torch.arange(8).flip(0))
        self.register_buffer("passing", torch.ones(8), persistent=False)
        self.register_buffer("switch", torch.tensor(True))

    def forward(self, images):
        features = self.frozen(torch.relu(self.norm(self.first(images)))).mean(dim=(2, 3))
        features = features[:, self.order] * self.passing * self.switch
        return self.head(torch.relu(self.again(torch.relu(self.mixing(features)))))


class Wide(nn.Module):
    """Answers with one number too many."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.head = nn.Linear(input_shape[-1], num_classes + 1)

    def forward(self, images):
        return self.head(images.flatten(1, -2).mean(dim=1))


class Dictionary(Wide):
    """Answers with a dictionary."""

    def forward(self, images):
        return {"logits": super().forward(images)[:, :-1]}


class Classes(Wide):
    """Answers with whole numbers."""

    def forward(self, images):
        return super().forward(images)[:, :-1].long()


class OnlyInEval(Wide):
    """Works in eval mode alone."""

    def forward(self, images):
        logits = super().forward(images)[:, :-1]
        return logits[:1] if self.training else logits


class Detached(Wide):
    """Learns nothing."""

    def forward(self, images):
        return super().forward(images)[:, :-1].detach()


class Undefined(Wide):
    """Divides by zero."""

    def forward(self, images):
        return super().forward(images)[:, :-1] / 0


class Lazy(nn.Module):
    """Has a layer whose size follows from the first batch."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.head = nn.LazyLinear(num_classes)

    def forward(self, images):
        return self.head(images.flatten(1))


def failing(input_shape, num_classes):
    """Raise what no setting's check expects."""
    raise KeyError("width")


def no_network(input_shape, num_classes):
    """Return no network."""
    return [input_shape, num_classes]
