"""Networks and losses for which memory is too small above some number of samples."""

import weakref

import torch
from torch import nn

CUDA_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB"
CPU_SAYS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
CUBLAS_SAYS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
CUDNN_SAYS = "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
NO_ENGINE = "GET was unable to find an engine to execute this computation"
SHORTAGES = {
    "a GPU's": lambda: torch.OutOfMemoryError(CUDA_SAYS),
    "the machine's": lambda: RuntimeError(CPU_SAYS),
    "Python's": MemoryError,
    "cuBLAS's": lambda: RuntimeError(CUBLAS_SAYS),
    "cuDNN's": lambda: RuntimeError(CUDNN_SAYS),
    "no engine's": lambda: RuntimeError(NO_ENGINE),
}


class Witness:
    """Held by a step's graph; a weak reference to it tells whether the graph is still there."""


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, most, shortage, witness):
        ctx.most, ctx.shortage, ctx.witness = most, shortage, witness
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > ctx.most:
            raise ctx.shortage()
        return gradient, None, None, None


class ShortMemory(nn.Module):
    """A network that runs out of memory with more than ``most`` samples, on its way forward or back.

    It notes how many samples it was given each time, and how many earlier graphs were alive then.
    """

    def __init__(self, inner, most, backward=False, shortage=SHORTAGES["a GPU's"]):
        super().__init__()
        self.inner, self.most, self.backward, self.shortage = inner, most, backward, shortage
        self.sizes, self.alive, self._graphs = [], [], []

    def forward(self, inputs):
        self.sizes.append(len(inputs))
        self.alive.append(sum(graph() is not None for graph in self._graphs))
        witness = Witness()
        self._graphs.append(weakref.ref(witness))
        hidden = _Backward.apply(
            self.inner(inputs), self.most if self.backward else len(inputs), self.shortage, witness
        )
        self._graphs.append(weakref.ref(hidden))
        if not self.backward and len(inputs) > self.most:
            raise self.shortage()
        return hidden
