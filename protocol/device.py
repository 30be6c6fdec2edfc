"""The device a process computes on, and how much of a GPU's memory it may take."""

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
    """The device a process computes on."""

    device: torch.device
    note: str = ""
    """What differs from the settings, and why; empty if nothing does."""


def choose_device(name: str) -> torch.device:
    """Return the device that a setting names, and log what differs from the setting; see `find_place`."""
    place = find_place(name)
    if place.note:
        log.warning("%s", place.note)
    return place.device


def find_place(name: str, gpu_memory: float | None = None) -> Place:
    """Find the device that a setting names, check that it works, and limit its memory before any is taken.

    ``auto`` takes a GPU if there is one that works, else the CPU. The note of the result says if there is a
    GPU that does not work (an outdated driver, no memory for the first tensor).

    Parameters
    ----------
    name
        ``auto``, ``cpu``, ``cuda`` (the process's first card) or ``cuda:N``.
    gpu_memory
        GB of the GPU's memory that torch may take in this process; None: all of it. It has no effect on
        a CPU, which ``auto`` may choose; the note says so.

    Raises
    ------
    SettingsError
        If there is no such GPU, it does not work, or it is smaller than ``gpu_memory``.
    """
    if name == "auto":
        return _automatic(gpu_memory)
    if name == "cpu":
        return Place(torch.device("cpu"), _without_effect(gpu_memory))
    _require_card(name)
    device = torch.device(name)
    if fault := _fault(device, gpu_memory):
        raise SettingsError(f'device = "{name}": the GPU does not work: {fault}; allowed here: auto, cpu')
    return Place(device)


def is_device(name: str) -> bool:
    """Tell whether a name is that of a device, on this machine or on another."""
    return name in _KINDS or bool(_CARD.fullmatch(name))


def allowed_devices() -> list[str]:
    """Return the names of this machine's devices."""
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
        raise SettingsError(f'device = "{name}": there is no such GPU; allowed here: {allowed}')


def _fault(device: torch.device, gpu_memory: float | None) -> str:
    """Make a GPU the process's current one, limit its memory, and try it; return what fails, or nothing."""
    try:
        if device.index is not None:
            torch.cuda.set_device(device)  # else tensors on plain "cuda" would take memory of the first GPU
        if gpu_memory is not None:
            _limit_memory(device, gpu_memory)
        _try(device)
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]
    return ""


def _limit_memory(device: torch.device, gpu_memory: float) -> None:
    """Limit what torch's allocator takes of a GPU in this process; CUDA itself takes some more."""
    number = torch.cuda.current_device() if device.index is None else device.index
    card = torch.cuda.get_device_properties(number)
    if gpu_memory * _GIGABYTE > card.total_memory:
        raise SettingsError(
            f"gpu-memory = {gpu_memory:g} (node-config): cuda:{number} ({card.name}) has "
            f"{card.total_memory / _GIGABYTE:.1f} GB"
        )
    torch.cuda.set_per_process_memory_fraction(gpu_memory * _GIGABYTE / card.total_memory, number)


def _try(device: torch.device) -> None:
    """Take memory and run a kernel: a listed GPU may be full, or too old for this version of torch."""
    (torch.ones(1, device=device) + 1).item()


def _without_effect(gpu_memory: float | None) -> str:
    return "" if gpu_memory is None else f"gpu-memory = {gpu_memory:g} has no effect on a CPU"


def _why_unusable() -> str:
    """Return why CUDA does not start although there is a GPU; nothing if there is none, or -1 hides it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "-1" or not list(_DEVICE_FILES.glob("nvidia[0-9]*")):
        return ""
    if visible == "":  # Ray hides the GPU this way from clients that get no share of it
        return "CUDA_VISIBLE_DEVICES is empty; a simulated client gets a share by client-resources-num-gpus"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]  # an AssertionError: this torch is built without CUDA
    return "no reason given"
