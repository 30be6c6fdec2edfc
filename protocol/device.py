"""Where tensors live, and how much memory of a GPU may be taken."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from protocol.errors import SettingsError

log = logging.getLogger("flwr")

_KINDS = ("auto", "cpu", "cuda")
_CARD = re.compile(r"cuda:(0|[1-9][0-9]{0,3})", re.ASCII)
_DEVICE_FILES = Path("/dev")
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Place:
    """Where a process computes."""

    device: torch.device
    note: str = ""
    """What is not as the settings ask, and why; empty if all is."""


def choose_device(name: str) -> torch.device:
    """Return the device a setting names, and log what is not as asked; see `find_place`."""
    place = find_place(name)
    if place.note:
        log.warning("%s", place.note)
    return place.device


def find_place(name: str, gpu_memory: float | None = None) -> Place:
    """Find the device a setting names, see that it works, and limit its memory before any is taken.

    ``auto`` takes a GPU where there is one that works, else the CPU. A card that is there and does not
    work (a driver too old, no room for the first tensor) is told in the place's note.

    Parameters
    ----------
    name
        ``auto``, ``cpu``, ``cuda`` (the process's first card) or ``cuda:N``.
    gpu_memory
        GB of the card that torch may take in this process; None: all of it. Without a GPU it limits
        nothing, and the note says so: ``auto`` may end on a CPU.

    Raises
    ------
    SettingsError
        If there is no such card, it does not work, or it is smaller than ``gpu_memory``.
    """
    if name == "auto":
        return _automatic(gpu_memory)
    if name == "cpu":
        return Place(torch.device("cpu"), _without_effect(gpu_memory))
    _require_card(name)
    device = torch.device(name)
    if fault := _fault(device, gpu_memory):
        raise SettingsError(f'device = "{name}": the card does not work: {fault}; allowed here: auto, cpu')
    return Place(device)


def is_device(name: str) -> bool:
    """Tell whether a name is one of a device, here or on another machine."""
    return name in _KINDS or bool(_CARD.fullmatch(name))


def allowed_devices() -> list[str]:
    """Return the names of the devices there are on this machine."""
    if not torch.cuda.is_available():
        return ["auto", "cpu"]
    return [*_KINDS, *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def _automatic(gpu_memory: float | None) -> Place:
    device = torch.device("cuda")
    available = torch.cuda.is_available()
    fault = _fault(device, gpu_memory) if available else _why_unusable()
    if available and not fault:
        return Place(device)
    fallback = f'device = "auto": the GPU does not work, computing on the CPU: {fault}' if fault else ""
    return Place(torch.device("cpu"), "; ".join(filter(None, [fallback, _without_effect(gpu_memory)])))


def _require_card(name: str) -> None:
    allowed = ", ".join(allowed_devices())
    if not is_device(name):
        raise SettingsError(f'device = "{name}": there is no such device; allowed here: {allowed}')
    if not torch.cuda.is_available():
        fault = _why_unusable()
        why = f" ({fault})" if fault else ""
        raise SettingsError(
            f'device = "{name}": this machine has no usable GPU{why}; allowed here: {allowed}'
        )
    if name not in allowed_devices():
        raise SettingsError(f'device = "{name}": there is no such card; allowed here: {allowed}')


def _fault(device: torch.device, gpu_memory: float | None) -> str:
    """Make a card the process's own, limit its memory, and try it; return what goes wrong, or nothing."""
    try:
        if device.index is not None:
            torch.cuda.set_device(device)  # else what names no card would take memory of the first one
        if gpu_memory is not None:
            _limit_memory(device, gpu_memory)
        _try(device)
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]
    return ""


def _limit_memory(device: torch.device, gpu_memory: float) -> None:
    """Limit what torch's allocator takes of a card in this process; what CUDA itself takes comes on top."""
    number = torch.cuda.current_device() if device.index is None else device.index
    card = torch.cuda.get_device_properties(number)
    if gpu_memory * _GIGABYTE > card.total_memory:
        raise SettingsError(
            f"gpu-memory = {gpu_memory:g} (node-config): cuda:{number} ({card.name}) has "
            f"{card.total_memory / _GIGABYTE:.1f} GB"
        )
    torch.cuda.set_per_process_memory_fraction(gpu_memory * _GIGABYTE / card.total_memory, number)


def _try(device: torch.device) -> None:
    """Take memory and run a kernel: a card may be listed and yet be full, or too old for this torch."""
    (torch.ones(1, device=device) + 1).item()


def _without_effect(gpu_memory: float | None) -> str:
    return "" if gpu_memory is None else f"gpu-memory = {gpu_memory:g} limits nothing on a CPU"


def _why_unusable() -> str:
    """Say why CUDA does not start although there is a card; nothing if there is none, or -1 hides it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "-1" or not list(_DEVICE_FILES.glob("nvidia[0-9]*")):
        return ""
    if visible == "":  # so Ray hides it from clients that are given no share
        return "CUDA_VISIBLE_DEVICES is empty; a simulated client gets a share by client-resources-num-gpus"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]  # an AssertionError: this torch is built without CUDA
    return "no reason given"
