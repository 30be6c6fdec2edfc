"""Where tensors live."""

from typing import Literal

import torch

from protocol.errors import SettingsError


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device a setting names; ``auto`` takes a GPU where there is one.

    Raises
    ------
    SettingsError
        If ``cuda`` is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise SettingsError('device = "cuda": this machine has no usable GPU; allowed here: auto, cpu')
    return torch.device("cuda" if name != "cpu" and available else "cpu")
