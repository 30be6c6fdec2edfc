"""The mean of unequal submodels, coordinate by coordinate, taken as they arrive."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from models.aggregation import Places


class SliceMean:
    """Merges submodels: each coordinate becomes the mean over those that cover it.

    Coordinates that none covers keep their value. (ScaleFL, section 3.3; HeteroFL, equation 2.)

    It owns one float64 sum a parameter, and of each submodel only where it lies (a few indices) and its
    weight: no weights are kept, however many clients there are. The sums are exact, and so independent of
    the order of arrival to the last bit, within the bounds that ``models.WeightedMean`` derives: the
    quotient is taken in float64 and rounded once.

    Parameters
    ----------
    whole
        The network's parameters before the round, by name: floating-point CPU tensors. They are read
        again at the end, and never changed.
    padded
        Names of parameters in which a coordinate that a submodel lacks, of a parameter that it has, counts
        as zero.
    """

    def __init__(self, whole: Mapping[str, Tensor], padded: Collection[str] = ()) -> None:
        self._padded = frozenset(padded)
        self._whole = whole
        self._sums = {name: torch.zeros(like.shape, dtype=torch.float64) for name, like in whole.items()}
        self._weights: dict[int, tuple[Places, int]] = {}

    @property
    def total_weight(self) -> int:
        """The weights added so far, together; 0 if there are none."""
        return sum(weight for _, weight in self._weights.values())

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int = 1, client: str = "") -> None:
        """Take in one submodel.

        Parameters
        ----------
        part
            Its parameters by name.
        where
            Where they lie in the whole.
        weight
            At least 1: 1 for the paper's unweighted mean, or a number of samples.
        client
            Whose it is, which changes nothing.

        Raises
        ------
        ValueError
            When the weight is below 1, or a tensor is missing, unexpected or of another shape or dtype
            than its place. Nothing is then changed.
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
