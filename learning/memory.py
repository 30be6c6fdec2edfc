"""Handling of too little memory: work is repeated in smaller batches."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from learning.optimizers import copies_of
from protocol.errors import MotleyError

log = logging.getLogger("flwr")

T = TypeVar("T")

_TELLTALES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "DEVICE_ALLOCATION_FAILED",
    "HOST_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
    "std::bad_alloc",
)
"""Parts of the messages of torch's out-of-memory errors that are plain ``RuntimeError``s."""


class MemoryShortageError(MotleyError):
    """Memory is too small for the model, even with the smallest batch."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that a GPU or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(telltale in str(error) for telltale in _TELLTALES)


class Halving:
    """Does work in batches that fit the memory; it keeps track of the batch size.

    If memory runs out the batch size is halved and the work repeated; later work starts with that size.

    Parameters
    ----------
    most
        Largest batch size, used while memory is sufficient.
    smallest
        Smallest batch size, unless there are fewer samples in all.
    """

    def __init__(self, most: int, smallest: int = 1) -> None:
        self._most = most
        self._smallest = smallest

    def __call__(self, work: Callable[[int], T], samples: int) -> T:
        """Return ``work(size)`` for the largest batch size that fits the memory.

        Raises
        ------
        RuntimeError, MemoryError
            Those of ``work``, if they are not about memory or the batch size cannot be halved any more.
        """
        while True:
            size = self.size(samples)
            try:
                return work(size)
            except (RuntimeError, MemoryError) as error:
                if not (is_out_of_memory(error) and self._halve(samples)):
                    raise
            # Only here the error is gone, and with it the stack frames that hold the failed work's tensors.
            _give_back()
            log.warning(
                "Out of memory at batch size %d: continuing with micro-batches of %d",
                size,
                self.size(samples),
            )

    def size(self, samples: int) -> int:
        """Return the size of the largest batch, where all are nearly equal."""
        return -(-samples // self._parts(samples)) or 1

    def _parts(self, samples: int) -> int:
        return max(1, min(-(-samples // self._most), samples // self._smallest))

    def _halve(self, samples: int) -> bool:
        """Halve the largest batch; return whether there are more batches then."""
        before = self._parts(samples)
        self._most = -(-self.size(samples) // 2)
        return self._parts(samples) > before


def _give_back() -> None:
    """Release unused memory, so that it can be allocated in other sizes."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


@contextmanager
def shortage_explained(model: nn.Module, size: Callable[[], int]) -> Iterator[None]:
    """Turn an out-of-memory error into one that says how much memory the model takes.

    Parameters
    ----------
    model
        The network, on its device.
    size
        Returns the size of the last batch.

    Raises
    ------
    MemoryShortageError
        In its place; any other error passes as it is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"out of memory even at batch size {size()}: {_weight_of(model)}. Use a smaller network or "
            f"level, or give the node more memory. Torch says: {str(error).partition('. See ')[0]}"
        ) from error


def leave_device(model: nn.Module) -> None:
    """Move a network to the CPU, and release its memory on the GPU.

    Networks share a frozen base within a process, so the base would otherwise stay on the GPU.
    """
    if any(parameter.is_cuda for parameter in model.parameters()):
        model.to("cpu")
        _give_back()


def training_bytes(model: nn.Module, optimizer: str = "sgd", device: torch.device | None = None) -> int:
    """Return the bytes of a network's parameters, gradients and optimizer state in training.

    On a GPU an optimizer updates all parameters at once, which takes one more copy of them.

    Parameters
    ----------
    model
        The network.
    optimizer
        Name of the optimizer.
    device
        The device of training; None for a CPU.
    """
    copies = copies_of(optimizer) + (device is not None and device.type == "cuda")
    return sum(p.nbytes * (copies if p.requires_grad else 1) for p in model.parameters())


def _weight_of(model: nn.Module) -> str:
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    taken = training_bytes(model, device=parameters[0].device)
    return (
        f"on {parameters[0].device} the network's {count:,} parameters alone take {taken / 1e6:.3g} MB with "
        "their gradients and momentum"
    )
