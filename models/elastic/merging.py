"""The mean of unequal submodels, coordinate by coordinate, updated as they arrive."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from models.aggregation import Places


class SliceMean:
    """Merges submodels: each coordinate becomes the mean over the submodels that contain it.

    Coordinates that no submodel contains keep their value. (ScaleFL, section 3.3; HeteroFL, equation 2.)

    It keeps one float64 sum per parameter, and of each submodel only its indices and its weight, never its
    parameters. The sums are exact, and so independent of the order of arrival to
    the last bit, within the bounds that ``models.WeightedMean`` derives: the quotient is computed in float64
    and rounded once.

    Parameters
    ----------
    whole
        The network's parameters before the round, by name: floating-point CPU tensors. They are read
        again at the end and never modified.
    padded
        Names of parameters for which a coordinate that a submodel lacks counts as zero, provided that the
        submodel has the parameter.
    """

    def __init__(self, whole: Mapping[str, Tensor], padded: Collection[str] = ()) -> None:
        self._padded = frozenset(padded)
        self._whole = whole
        self._sums = {name: torch.zeros(like.shape, dtype=torch.float64) for name, like in whole.items()}
        self._weights: dict[int, tuple[Places, int]] = {}

    @property
    def total_weight(self) -> int:
        """Sum of the weights added so far."""
        return sum(weight for _, weight in self._weights.values())

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int = 1, client: str = "") -> None:
        """Add one submodel.

        Parameters
        ----------
        part
            Its parameters by name.
        where
            Their indices in the whole network.
        weight
            At least 1: 1 for the paper's unweighted mean, or a number of samples.
        client
            The client's name; it has no influence.

        Raises
        ------
        ValueError
            When the weight is below 1, or a tensor is missing, unexpected or of another shape or dtype
            than its place. Nothing is changed in that case.
        """
        if weight < 1:
            raise ValueError(f"weight = {weight}: must be at least 1")
        for name in [*where, *part]:
            if name not in where or name not in part:
                raise ValueError(f"tensor {name!r}: {'unexpected' if name in part else 'missing'}")
        # A view of the sums where the places are slices, else a copy.
        covered = {name: self._sums[name][where.places(name)] for name in where}
        for name, total in covered.items():
            _require_alike(name, part[name], tuple(total.shape), self._whole[name].dtype)
        for name, total in covered.items():
            total.add_(part[name].detach().to("cpu", torch.float64), alpha=weight)
            if not where.is_view(name):
                self._sums[name][where.places(name)] = total
        _, before = self._weights.get(id(where), (where, 0))
        self._weights[id(where)] = (where, before + weight)

    def merged(self) -> dict[str, Tensor]:
        """Return the whole network's parameters after the round, each in its own dtype."""
        return {name: self._merge(name) for name in self._whole}

    def _merge(self, name: str) -> Tensor:
        before, total = self._whole[name], self._sums[name]
        weights = torch.zeros_like(total)
        for where, weight in self._weights.values():
            if name in where:
                weights[... if name in self._padded else where.places(name)] += weight
        mean = (total / weights).to(before.dtype)
        return torch.where(weights > 0, mean, before)


def _require_alike(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ValueError(
            f"tensor {name!r}: got {tensor.dtype} of shape {tuple(tensor.shape)}, "
            f"expected {dtype} of shape {shape}"
        )
