"""Both sides of a tiny federation: linear networks on four pixels, without a grid."""

from dataclasses import dataclass

import torch
from torch import nn

from data import ClientData, PublicPool, Samples
from data.inputs import TensorInputs
from learning.learner import TorchLearner
from protocol.randomness import derive_seed
from protocol.settings import RunSettings
from strategies.sides import ClientSide, ServerSide
from strategies.state import StateStore

CLASSES = 3
IMAGES = (1, 2, 2)
EXPERIMENT = "experiment"
CPU = torch.device("cpu")

TINY = {
    "train.epochs": 1,
    "train.batch-size": 4,
    "distillation.epochs": 1,
    "distillation.batch-size": 4,
    "public.size": 8,
    "public.subset-size": 4,
    "scarlet.cache-duration": 2,
}


def tiny_settings(**changes):
    """Return settings of a tiny run; keys may be written with ``__`` for a dot, ``_`` for a dash."""
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return RunSettings.parse({**TINY, **named})


def linear_network(seed):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(4, CLASSES)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


@dataclass(frozen=True)
class TinyServerSide(ServerSide):
    def new_model(self):
        return linear_network(derive_seed(self.settings.seed, "model", client="server"))

    def new_learner(self):
        return TorchLearner(self.new_model(), self.settings, "server", self.arithmetic)


@dataclass(frozen=True)
class TinyClientSide(ClientSide):
    def new_model(self):
        return linear_network(derive_seed(self.settings.seed, "model", client=self.name))

    def new_learner(self):
        return TorchLearner(self.new_model(), self.settings, self.name, self.arithmetic)


def random_images(count, *names):
    generator = torch.Generator().manual_seed(derive_seed(0, "images", client="/".join(names)))
    return torch.rand(count, *IMAGES, generator=generator)


def random_samples(count, *names):
    return Samples(TensorInputs(random_images(count, *names)), torch.arange(count) % CLASSES)


def public_pool(settings):
    return PublicPool(TensorInputs(random_images(settings.public.size, "public")), "pool")


def server_side(settings):
    return TinyServerSide(settings, public_pool(settings), IMAGES, CLASSES, CPU)


def client_side(settings, name, folder):
    data = ClientData(random_samples(9, name, "train"), random_samples(6, name, "test"), CLASSES)
    store = StateStore(folder / name)
    return TinyClientSide(settings, name, "linear", data, public_pool(settings), store, CPU)


def assert_same_weights(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
