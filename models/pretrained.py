"""Weights of a checkpoint for a network that was built at random."""

import os
from pathlib import Path

from torch import nn

from models.weights import load_weights
from protocol.errors import SettingsError
from protocol.values import expanded

SUFFIX = ".safetensors"


def load_pretrained(model: nn.Module, place: str, name: str) -> None:
    """Put a checkpoint's weights into a network, in place.

    Parameters
    ----------
    model
        Just built.
    place
        A file of safetensors, or a folder with ``model.safetensors``.
    name
        The network's name, for messages.

    Raises
    ------
    SettingsError
        If there is no such file, or its tensors are not the network's: naming the first that differs.
    """
    path = Path(expanded(place))
    file = path / f"model{SUFFIX}" if os.path.isdir(path) else path
    if file.suffix != SUFFIX or not file.is_file():
        raise SettingsError(
            f'pretrained = "{place}": model {name!r} reads its weights from a file of safetensors, or a '
            f"folder with model{SUFFIX}; there is none (nothing is unpickled)"
        )
    state, _ = load_weights(file)
    own = model.state_dict()
    for tensor in sorted(own.keys() | state.keys()):
        got = tuple(state[tensor].shape) if tensor in state else "no such tensor"
        wanted = tuple(own[tensor].shape) if tensor in own else "no such tensor"
        if got != wanted:
            raise SettingsError(
                f'pretrained = "{place}": tensor {tensor!r}: got {got}, model {name!r} has {wanted}'
            )
    model.load_state_dict(state)
