"""Both sides of a tiny federation of submodels, without a grid: random images, three classes."""

import torch

from data import ClientData, PublicPool, Samples
from data.inputs import TensorInputs
from models import elastic_design
from protocol.messages import HelloReply
from protocol.randomness import derive_seed
from strategies import method_of
from strategies.sides import ClientSide, ServerSide
from strategies.state import StateStore
from strategies.submodels.messages import SliceReply, SliceRequest
from tests.strategies.sides import CLASSES, CPU, EXPERIMENT, tiny_settings

IMAGES = (1, 8, 8)
CNN = elastic_design("elastic-cnn")
ALL_LEVELS = {f"client-{level}": level for level in (1, 2, 3, 4)}


def submodel_settings(strategy="scalefl", **changes):
    return tiny_settings(strategy=strategy, model="elastic-cnn", **changes)


def images(count, *names):
    generator = torch.Generator().manual_seed(derive_seed(0, "images", client="/".join(names)))
    return torch.rand(count, *IMAGES, generator=generator)


def samples(count, *names, classes=CLASSES):
    return Samples(TensorInputs(images(count, *names)), torch.arange(count) % classes)


def public_pool(settings):
    return PublicPool(TensorInputs(images(settings.public.size, "public")), "pool")


def server_side(settings, calibrated=True):
    pool = public_pool(settings)
    return ServerSide(settings, pool, IMAGES, CLASSES, CPU, pool.inputs if calibrated else None)


def client_side(settings, folder, name="ada", classes=CLASSES):
    data = ClientData(samples(9, name, "train", classes=classes), samples(6, name, "test"), CLASSES)
    pool = public_pool(settings)
    return ClientSide(settings, name, settings.model, data, pool, StateStore(folder / name), CPU)


def hello(client, level, reason="set in its node-config"):
    return HelloReply(client, True, "elastic-cnn", "pool", "code", b"", level, reason)


def server_for(settings, levels=ALL_LEVELS, calibrated=True):
    """Return a server that has met clients of some levels."""
    server = method_of(settings).server(server_side(settings, calibrated), EXPERIMENT)
    for client, level in levels.items():
        server.greet(hello(client, level))
    return server


def begin(server, round, *clients):
    """Begin a round and return each client's request."""
    outgoing = server.begin(round, clients, final=False)
    return {client: SliceRequest.from_record(each.content) for client, each in outgoing.items()}


def reply_to(request, shift=0.0, **changes):
    """Return the reply of a client whose training moved every weight by as much."""
    fields = {
        "accuracy": 0.5,
        "loss": 1.0,
        "examples": 4,
        "trained_on": 1,
        "weights": {name: tensor + shift for name, tensor in request.weights.items()},
        "level": request.level,
    }
    return SliceReply(**{**fields, **changes})


def play(server, round, shifts, trained_on=None):
    """Play a round in which each client moves its weights; the clients answer in the order given."""
    requests = begin(server, round, *sorted(shifts))
    for client, shift in shifts.items():
        count = (trained_on or {}).get(client, 1)
        server.accept(client, round, reply_to(requests[client], shift, trained_on=count).to_record())
    server.finish(round)
    return weights(server)


def weights(server):
    return {name: tensor.clone() for name, tensor in server.weights().items()}


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_of(shape):
    """Return name and shape of what a submodel of a shape learns."""
    return shapes(dict(CNN.on_meta(IMAGES, CLASSES, shape).named_parameters()))
