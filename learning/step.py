"""One training step: a batch's mean loss and its gradients, in micro-batches if memory is short."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learning.memory import Halving
from learning.precision import Arithmetic

Batch = tuple[Tensor, ...]
"""Tensors with one row per sample."""


def indices_alone(indices: Tensor) -> Batch:
    """Return a batch's indices as the batch itself."""
    return (indices,)


class Step:
    """Computes the loss and the gradients of batches; it keeps track of the size of micro-batches.

    Parameters
    ----------
    model
        The network, on its device.
    batch_loss, draw
        See `learning.training.fit`.
    batch_size
        Samples per batch; a single remaining sample may be added to the last batch.
    parameters
        The model's parameters whose gradients are needed.
    arithmetic
        Precision and device of the network.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_loss: Callable[..., Tensor],
        draw: Callable[[Tensor], Batch],
        batch_size: int,
        parameters: list[Tensor],
        arithmetic: Arithmetic,
    ) -> None:
        normalises = any(isinstance(module, _BatchNorm) for module in model.modules())
        self._halving = Halving(batch_size + 1, smallest=2 if normalises else 1)
        self._batch_loss = batch_loss
        self._draw = draw
        self._samples = batch_size
        self._parameters = parameters
        self._arithmetic = arithmetic
        self._find_gradients = arithmetic.gradients()

    def size(self) -> int:
        """Return the largest number of samples of the last micro-batches."""
        return self._halving.size(self._samples)

    def __call__(self, indices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the gradients.

        Raises
        ------
        RuntimeError, MemoryError
            If the smallest micro-batch does not fit the memory.
        TrainingError
            If gradients are not finite; in float16, at any scale.
        """
        self._samples = len(indices)
        with self._arithmetic.autocast():
            batch = self._draw(indices)
        return self._halving(partial(self._in_parts, batch), len(indices))

    def _in_parts(self, batch: Batch, size: int) -> tuple[Tensor, list[Tensor]]:
        if size >= self._samples:
            return self._of(batch)
        count = -(-self._samples // size)
        first, *others = zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)
        loss, total = self._of(first)
        for part in others:
            more, gradients = self._of(part)
            loss = loss + more
            total = _add(total, gradients)
            del gradients  # or they would take memory while the next ones are computed
        return loss, total

    def _of(self, part: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return a micro-batch's contribution to the batch's mean loss and to its gradients.

        If gradients overflow in float16 they are computed again at half the scale. Skipping the step, as is
        usual, could skip all steps that a client with few samples takes in a round.
        """
        while True:
            with self._arithmetic.autocast():
                loss = self._batch_loss(*part)
            if len(part[0]) < self._samples:
                loss = loss * (len(part[0]) / self._samples)
            gradients = self._find_gradients(loss, self._parameters)
            if gradients is not None:
                return loss.detach(), gradients


def _add(total: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Add gradients to a sum, tensor by tensor; not in place, as two parameters may share a gradient."""
    for place, gradient in enumerate(gradients):
        total[place] = total[place] + gradient
    return total
