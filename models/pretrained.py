"""Loads a checkpoint's weights into a network that was built with random ones."""

import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from models.first_convolution import first_convolution, for_channels
from models.weights import load_weights
from protocol.errors import ResumeError, SettingsError
from protocol.values import expanded

log = logging.getLogger("flwr")

FILE = "model.safetensors"
PICKLE = "pytorch_model.bin"
"""What transformers and timm name weights in a folder, now and before."""
_SUFFIX = ".safetensors"
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
_COUNTER = "num_batches_tracked"
"""What a batch norm counts and does not use; weights that were published long ago lack it."""

Published = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Brings the tensors of published weights to the names a network has for them."""


def as_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names they have."""
    return dict(state)


def load_pretrained(
    model: nn.Module, place: str, name: str, num_classes: int, published: Published = as_published
) -> None:
    """Put a checkpoint's weights into a network, in place.

    Parameters
    ----------
    model
        Just built.
    place
        A file of safetensors, or a folder with ``model.safetensors``.
    name
        The network's name, for messages.
    num_classes
        Width of the network's answer.
    published
        Brings the checkpoint's tensors to the network's names.

    Raises
    ------
    SettingsError
        If there is no such file, or its tensors are not the network's: naming the first that differs.
    """
    put_weights(model, published(_read(place, name)), num_classes, name, f'pretrained = "{place}"')


def put_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    num_classes: int,
    name: str,
    source: str,
    may_lack: Collection[str] = (),
) -> None:
    """Put weights into a network of the same names and shapes, in place.

    Two things may differ. The last layer of weights that know another number of classes is left at random,
    and the log says so. The first convolution of weights for images of other channels is fitted to these,
    see `for_channels`.

    Parameters
    ----------
    model
        Just built.
    state
        Tensors by the network's names.
    num_classes
        Width of the network's answer.
    name
        The network's name, for messages.
    source
        The setting that names the weights, with its value, for messages.
    may_lack
        Names of tensors that need not be there, and are left at random.

    Raises
    ------
    SettingsError
        Naming the first tensor that differs, what came and what the network has.
    """
    own = model.state_dict()
    head = _head_for_others(own, state, num_classes)
    first = _first_kernel(model)
    taken: dict[str, Tensor] = {}
    for tensor in sorted(own.keys() | state.keys()):
        if tensor in head or (tensor not in state and _is_needless(tensor, may_lack)):
            continue
        came = state.get(tensor)
        if came is not None and tensor == first:
            came = _fitted(came, own[tensor])
        if came is None or tensor not in own or came.shape != own[tensor].shape:
            raise SettingsError(
                f"{source}: tensor {tensor!r}: got {_shape_of(state, tensor)}, model {name!r} has "
                f"{_shape_of(own, tensor)}"
            )
        taken[tensor] = came
    model.load_state_dict(taken, strict=False)
    if random := sorted((head.keys() | set(may_lack)) & own.keys()):
        _mention(f"model {name!r}: {', '.join(random)} begin at random: {source} {_why(head, num_classes)}")


def _read(place: str, name: str) -> dict[str, Tensor]:
    try:
        state, _ = load_weights(_file_at(place, name))
    except ResumeError as error:
        raise SettingsError(f'pretrained = "{place}": {error}') from error
    return state


def _file_at(place: str, name: str) -> Path:
    """Return the file of safetensors at a place; say how to get one if there are only pickled weights."""
    path = Path(expanded(place))
    file, pickle = (path / FILE, path / PICKLE) if path.is_dir() else (path, path)
    if file.suffix == _SUFFIX and file.is_file():
        return file
    if pickle.suffix in _PICKLES and pickle.is_file():
        raise SettingsError(
            f'pretrained = "{place}": {pickle.name} is a pickle, which runs code as it is read; convert it '
            f"on your own machine: {conversion_of(pickle)}"
        )
    raise SettingsError(
        f'pretrained = "{place}": model {name!r} reads its weights from a file of safetensors on this '
        f"machine, or a folder with {FILE}; there is none"
    )


def conversion_of(pickle: Path) -> str:
    """Return the command that converts a pickle's weights to the file that is read instead."""
    target = FILE if pickle.name == PICKLE else f"{pickle.stem}{_SUFFIX}"
    return f"python -m models.convert {pickle} {pickle.with_name(target)}"


def _head_for_others(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], num_classes: int
) -> dict[str, int]:
    """Return the tensors that differ in the number of classes alone, and how many those of the weights know.

    A hidden layer as wide as there are classes is none: the layer after it would differ too.
    """
    known = {
        tensor: len(state[tensor])
        for tensor in own.keys() & state.keys()
        if own[tensor].ndim
        and own[tensor].shape[0] == num_classes
        and own[tensor].shape != state[tensor].shape
        and own[tensor].shape[1:] == state[tensor].shape[1:]
    }
    return known if len(set(known.values())) == 1 else {}


def _first_kernel(model: nn.Module) -> str:
    found = first_convolution(model)
    return f"{found[0]}.weight".removeprefix(".") if found is not None and found[1].groups == 1 else ""


def _fitted(kernel: Tensor, wanted: Tensor) -> Tensor:
    """Return a kernel for as many input channels as are wanted, or as it is if more than these differ."""
    if kernel.ndim != 4 or (kernel.shape[0], *kernel.shape[2:]) != (wanted.shape[0], *wanted.shape[2:]):
        return kernel
    return for_channels(kernel.to(torch.float32), wanted.shape[1])


def _is_needless(tensor: str, may_lack: Collection[str]) -> bool:
    return tensor in may_lack or tensor.rpartition(".")[2] == _COUNTER


def _shape_of(state: Mapping[str, Tensor], tensor: str) -> str:
    return str(tuple(state[tensor].shape)) if tensor in state else "no such tensor"


def _why(head: Mapping[str, int], num_classes: int) -> str:
    counts = sorted(set(head.values()))
    return f"knows {counts[0]} classes, the data have {num_classes}" if counts else "does not have them"


@cache
def _mention(line: str) -> None:
    """Log a line, once a process: a network is built anew in every round."""
    log.info("%s", line)
