"""The contract of weight aggregators, which merge whole networks, submodels or adapters."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Protocol

from torch import Tensor

Index = slice | Tensor
"""Indices along one dimension; a ``slice`` if they are consecutive."""


class Places(Protocol):
    """The indices of a client's parameters in the whole network's parameters."""

    def __contains__(self, name: str) -> bool:
        """Tell whether the client has a parameter."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the client's parameters."""

    def places(self, name: str) -> tuple[Index | EllipsisType, ...]:
        """Return an index into the whole parameter that selects the client's, in its shape."""

    def is_view(self, name: str) -> bool:
        """Tell whether indexing with `places` returns a view and not a copy."""

    def only(self, names: Collection[str]) -> "Places":
        """Return the indices of some of the parameters."""


class WeightAggregator(Protocol):
    """Merges the weights of one round as they arrive; the result must not depend on the order of arrival."""

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int, client: str) -> None:
        """Add one client's parameters.

        Parameters
        ----------
        part
            By name, on the CPU, all finite.
        where
            Their indices in the whole network.
        weight
            At least 1: the client's number of samples, or 1.
        client
            The client's name.

        Raises
        ------
        ValueError
            If a tensor is missing, unexpected or of another shape or dtype; nothing is changed in that case.
        """

    def merged(self) -> dict[str, Tensor]:
        """Return the whole network's parameters after the round; those that nobody sent are unchanged."""


class Everywhere:
    """The indices of a client that has the whole network."""

    def __init__(self, whole: Iterable[str]) -> None:
        self._names = frozenset(whole)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def places(self, name: str) -> tuple[EllipsisType]:
        """Return an index that selects all of a parameter."""
        return (...,)

    def is_view(self, name: str) -> bool:
        """Return True: indexing never copies."""
        return True

    def only(self, names: Collection[str]) -> "Everywhere":
        """Return the indices of some of the parameters."""
        return Everywhere(self._names & set(names))
