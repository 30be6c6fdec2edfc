"""The contract of all that merges clients' weights: whole networks, submodels and adapters."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Protocol

from torch import Tensor

Index = slice | Tensor
"""Places along one dimension; a ``slice`` where they lie side by side."""


class Places(Protocol):
    """Where a client's parameters lie in the whole network's."""

    def __contains__(self, name: str) -> bool:
        """Tell whether the client has a parameter."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the client's parameters."""

    def places(self, name: str) -> tuple[Index | EllipsisType, ...]:
        """Return an index into the whole parameter that selects the client's, in its shape."""

    def is_view(self, name: str) -> bool:
        """Tell whether indexing with the places gives a view and no copy."""

    def only(self, names: Collection[str]) -> "Places":
        """Return where some of the parameters lie."""


class WeightAggregator(Protocol):
    """Merges the weights of one round as they arrive; the result must not depend on the order of arrival."""

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int, client: str) -> None:
        """Take in one client's parameters.

        Parameters
        ----------
        part
            By name, on the CPU, all finite.
        where
            Where they lie in the whole.
        weight
            At least 1: the client's number of samples, or 1.
        client
            Its lasting name.

        Raises
        ------
        ValueError
            If a tensor is missing, unexpected or of another shape or dtype; nothing is then changed.
        """

    def merged(self) -> dict[str, Tensor]:
        """Return the whole network's parameters after the round; as before it where nobody sent any."""


class Everywhere:
    """The places of a client that has the whole network."""

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
        """Tell that indexing copies nothing."""
        return True

    def only(self, names: Collection[str]) -> "Everywhere":
        """Return where some of the parameters lie."""
        return Everywhere(self._names & set(names))
