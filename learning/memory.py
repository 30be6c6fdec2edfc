"""What happens where memory is too small: the work goes on in smaller batches."""

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
"""Parts of what torch says with a plain ``RuntimeError``, for which it has no class."""


class MemoryShortageError(MotleyError):
    """A model does not fit the memory there is, however small a batch is."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that memory, of a GPU or of the machine, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(telltale in str(error) for telltale in _TELLTALES)


class Halving:
    """Does work in batches that fit the memory; it owns how large they may be.

    A batch that does not fit is halved, and the work done again; later work starts with what fitted.

    Parameters
    ----------
    most
        Samples in a batch, as long as memory is enough.
    smallest
        Samples below which no batch is made, unless there are no more in all.
    """

    def __init__(self, most: int, smallest: int = 1) -> None:
        self._most = most
        self._smallest = smallest

    def __call__(self, work: Callable[[int], T], samples: int) -> T:
        """Return ``work(size)`` for the largest size that fits; it divides the samples into such batches.

        Raises
        ------
        RuntimeError, MemoryError
            The work's own, if it is of another kind or the batches cannot be halved any more.
        """
        while True:
            size = self.size(samples)
            try:
                return work(size)
            except (RuntimeError, MemoryError) as error:
                if not (is_out_of_memory(error) and self._halve(samples)):
                    raise
            # Only here, when the error is gone, and with it the frames that hold the failed work's tensors.
            _give_back()
            log.warning(
                "Out of memory at batch %d: going on in micro-batches of %d", size, self.size(samples)
            )

    def size(self, samples: int) -> int:
        """Return how many samples the largest batch has, if all are nearly equal."""
        return -(-samples // self._parts(samples)) or 1

    def _parts(self, samples: int) -> int:
        return max(1, min(-(-samples // self._most), samples // self._smallest))

    def _halve(self, samples: int) -> bool:
        """Halve the largest batch; return whether that makes more of them."""
        before = self._parts(samples)
        self._most = -(-self.size(samples) // 2)
        return self._parts(samples) > before


def _give_back() -> None:
    """Give unused memory back, so that it can be cut anew."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


@contextmanager
def shortage_explained(model: nn.Module, size: Callable[[], int]) -> Iterator[None]:
    """Turn an error for lack of memory into one that says how much the model takes.

    Parameters
    ----------
    size
        Returns how many samples the last batch had.

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
            f"out of memory even at batch {size()}: {_weight_of(model)}. Take a smaller network or level, or "
            f"give the node more memory. Torch says: {str(error).partition('. See ')[0]}"
        ) from error


def leave_device(model: nn.Module) -> None:
    """Move a network to the CPU, and give its memory back.

    One with a frozen base shares that with others of the process, so it would stay on a card without any.
    """
    if any(parameter.is_cuda for parameter in model.parameters()):
        model.to("cpu")
        _give_back()


def training_bytes(model: nn.Module, optimizer: str = "sgd", device: torch.device | None = None) -> int:
    """Return what a network's parameters take in training, with their gradients and what a step remembers.

    On a card a step's changes are found for all parameters at once, which takes a copy more.
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
