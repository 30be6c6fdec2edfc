"""Weights of networks: saved atomically, loaded, checked and averaged."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.elastic.channels import run_parameters
from models.elastic.network import ExitNetwork
from protocol.errors import ResumeError
from protocol.files import write_atomically
from protocol.formats import FileKind, checked_metadata, stamped_metadata

_LARGEST_VALUE = 1e6
"""No usable network has a larger weight or norm statistic."""


def save_weights(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], kind: FileKind = FileKind.WEIGHTS
) -> None:
    """Write a state dict as a safetensors file, atomically.

    ``path`` always has either the complete old or the complete new content. A crash may leave behind a hidden
    file that ends in ``.tmp``.

    Parameters
    ----------
    path
        The file; its folder must exist.
    state
        Tensors by name, on any device and in any memory layout. Tensors that share memory are stored
        separately.
    metadata
        Text to save with them; the version of the format is added.
    kind
        The kind of file, which determines the version.

    Raises
    ------
    OSError
        When the file cannot be written; the old one is still there.
    """
    # A copy of each: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    write_atomically(path, safetensors.torch.save(tensors, stamped_metadata(kind, metadata)))


def load_weights(path: Path, kind: FileKind = FileKind.WEIGHTS) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_weights` wrote.

    Safetensors checks the header and that every tensor is there in full; it keeps no checksum of the
    numbers.

    Parameters
    ----------
    path
        The file.
    kind
        The kind of file, which determines the versions that can be read.

    Returns
    -------
    state
        Tensors by name, on the CPU.
    metadata
        The text kept with them.

    Raises
    ------
    ResumeError
        When the file is missing or damaged.
    FormatError
        When it is of a newer version.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = checked_metadata(kind, file.metadata() or {}, path)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ResumeError(f"{path}: no readable weights ({error}); restore or remove this file") from error


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what is a network's own: what of it travels, and is kept.

    That is all its parameters and buffers. Of an elastic network that has frozen parameters it is those that
    learn or are carried, see `run_parameters`: frozen ones come from a checkpoint that every party has.
    """
    own = run_parameters(model)
    state = dict(model.state_dict())
    return {name: state[name] for name in state if name in own} if _has_frozen(model) else state


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the part of `learned_state` that training changes, which a client sends back."""
    carried = {name for name, own in run_parameters(model).items() if not own.requires_grad}
    return {name: tensor for name, tensor in learned_state(model).items() if name not in carried}


def load_learned_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `learned_state` returned into a network of the same shape.

    Raises
    ------
    RuntimeError
        If a tensor is missing, unexpected or of another shape.
    """
    if not _has_frozen(model):
        model.load_state_dict(state)
        return
    learned = learned_state(model)
    if differing := sorted(learned.keys() ^ state.keys()):
        where = "missing" if differing[0] in learned else "unexpected"
        raise RuntimeError(f"tensor {differing[0]!r}: {where}")
    model.load_state_dict(state, strict=False)  # which still refuses other shapes


def _has_frozen(model: nn.Module) -> bool:
    """Tell whether every party has some of a network's parameters already; of others' networks none has."""
    return isinstance(model, ExitNetwork) and not all(own.requires_grad for own in model.parameters())


def corruption(state: Mapping[str, Tensor]) -> str:
    """Return a sign that weights were corrupted, by their node or in transmission; empty if there is none.

    A single value of 1e30 among a client's weights is finite, yet it makes the mean over all clients useless.
    Wrong weights of a plausible size cannot be distinguished from correct ones.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            return f"weights {name!r}: not all values are finite"
        largest = float(tensor.abs().max()) if tensor.is_floating_point() and tensor.numel() else 0.0
        if largest > _LARGEST_VALUE:
            return f"weights {name!r}: {largest:.3g} among the values, at most {_LARGEST_VALUE:g} is allowed"
    return ""


class WeightedMean:
    """The mean of state dicts, each with an integer weight, updated as they arrive.

    It keeps one float64 sum per tensor, so its memory does not grow with the number of states.

    For float32 tensors the result does not depend, to the last bit, on the order of arrival as long as
    every sum is exact. A float32 is an integer of at most 24 bits times a power of two, so its product
    with a weight below 2**29 fits float64's 53 bits. Take one position of one tensor: let the smallest
    non-zero value there lie in [2**a, 2**(a+1)) and the largest below 2**(a+1+s), and let all weights
    add up to at most 2**t. All products are then multiples of 2**(a-23), and no partial sum exceeds
    2**(a+1+s+t): that is exact when s + t <= 29. With a million samples in all (t = 20), values
    may thus differ 512-fold in magnitude (s = 9). (Below 2**-126 float32 numbers are multiples of
    2**-149; there take a = -126.)

    Outside that range the last bits of a float64 sum may depend on the order. The float32 result then
    still seldom does: only where the mean lies within that error of the middle of two float32 numbers,
    or where values cancel to less than about 2**-29 of their size.

    Parameters
    ----------
    reference
        The names, shapes and dtypes that every state must have; without it, the first state's.
    """

    def __init__(self, reference: Mapping[str, Tensor] | None = None) -> None:
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._total = 0
        if reference is not None:
            self._start(reference)

    @property
    def total_weight(self) -> int:
        """Sum of the weights added so far."""
        return self._total

    def add(self, state: Mapping[str, Tensor], weight: int) -> None:
        """Add one state.

        Parameters
        ----------
        state
            Real tensors by name. Integers are exact up to 2**53, as a product with the weight.
        weight
            At least 1, as a number of samples.

        Raises
        ------
        ValueError
            When the weight is below 1, or a tensor is missing, unexpected or of another shape or dtype
            than the reference's. The sums are unchanged in that case.
        """
        if weight < 1:
            raise ValueError(f"weight = {weight}: must be at least 1")
        if not self._sums:
            self._start(state)
        self._require_same_layout(state)
        for name, total in self._sums.items():
            total.add_(state[name].detach().to("cpu", torch.float64), alpha=weight)
        self._total += weight

    def mean(self) -> dict[str, Tensor]:
        """Return the weighted mean on the CPU, each tensor in its own dtype.

        The quotient is taken in float64 and rounded once to the tensor's dtype; for integer dtypes to
        the nearest integer, halves to the even one.

        Raises
        ------
        ValueError
            When nothing was added.
        """
        if self._total == 0:
            raise ValueError("the mean of no states is undefined: add one first")
        return {
            name: _round_to(dtype, self._sums[name] / self._total) for name, dtype in self._dtypes.items()
        }

    def _start(self, reference: Mapping[str, Tensor]) -> None:
        self._sums = {name: torch.zeros(like.shape, dtype=torch.float64) for name, like in reference.items()}
        self._dtypes = {name: like.dtype for name, like in reference.items()}

    def _require_same_layout(self, state: Mapping[str, Tensor]) -> None:
        expected = {name: _describe(self._dtypes[name], total) for name, total in self._sums.items()}
        got = {name: _describe(tensor.dtype, tensor) for name, tensor in state.items()}
        for name in expected | got:
            came, wanted = got.get(name, "no such tensor"), expected.get(name, "no such tensor")
            if came != wanted:
                raise ValueError(f"tensor {name!r}: got {came}, expected {wanted}")


def _round_to(dtype: torch.dtype, values: Tensor) -> Tensor:
    return values.to(dtype) if dtype.is_floating_point else values.round().to(dtype)


def _describe(dtype: torch.dtype, tensor: Tensor) -> str:
    return f"{dtype} of shape {tuple(tensor.shape)}"
