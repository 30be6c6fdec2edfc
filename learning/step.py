"""One training step: a batch's mean loss and its gradients, in parts where memory is too small for all."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learning.memory import Halving
from learning.precision import Arithmetic

Batch = tuple[Tensor, ...]
"""Tensors with a row a sample."""


def indices_alone(indices: Tensor) -> Batch:
    """Make nothing else of a batch's indices."""
    return (indices,)


class Step:
    """Finds the loss and the gradients of batches; it owns how large a micro-batch may be.

    Parameters
    ----------
    batch_loss, draw
        See `learning.training.fit`.
    batch_size
        Samples in a batch; one that is left over may join it.
    parameters
        Of the model: those whose gradients are wanted.
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
        """Return how many samples the last micro-batch had, at most."""
        return self._halving.size(self._samples)

    def __call__(self, indices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the gradients.

        Raises
        ------
        RuntimeError, MemoryError
            If the smallest micro-batch does not fit the memory.
        TrainingError
            If gradients are not finite, in float16 whatever the scale.
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
            del gradients  # else they would take memory while the next ones are found
        return loss, total

    def _of(self, part: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return what a micro-batch adds to the batch's mean loss, and to its gradients.

        Where these overflow in float16 they are found again at half the scale. To leave the step out, as is
        usual, could leave out all that a client with few samples does in a round.
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
    """Add gradients to a sum, a tensor at a time; not in place, for two parameters may share a gradient."""
    for place, gradient in enumerate(gradients):
        total[place] = total[place] + gradient
    return total
