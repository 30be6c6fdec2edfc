"""Index maps: which part of a network a submodel is, and how it is cut out."""

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import copy
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor

from models.aggregation import Index
from models.elastic.channels import Axes, Channels
from protocol.randomness import derive_seed, torch_generator

IndexPolicy = Callable[[str, int, int], Tensor]
"""Maps a group's name, its whole size and the number of channels to keep to the kept indices, int64."""


PolicyKind = Literal["leading", "rolling", "random"]


def leading(group: str, whole: int, kept: int) -> Tensor:
    """Keep the first channels (HeteroFL, ScaleFL).

    Parameters
    ----------
    group
        The group's name; it has no influence.
    whole
        Size of the group in the whole network; it has no influence.
    kept
        Number of channels to keep.
    """
    return torch.arange(kept)


def rolling(round: int) -> IndexPolicy:
    """Keep a window that moves by one channel per round and wraps around (FedRolex, section 3)."""

    def window(group: str, whole: int, kept: int) -> Tensor:
        return (torch.arange(kept) + round) % whole

    return window


def scattered(seed: int, round: int, client: str) -> IndexPolicy:
    """Keep channels drawn at random for a client in a round (Federated Dropout, Caldas et al. 2018).

    Parameters
    ----------
    seed
        The run's seed.
    round
        From 1.
    client
        The client's name.
    """

    def draw(group: str, whole: int, kept: int) -> Tensor:
        generator = torch_generator(derive_seed(seed, f"channels {group}"), "dropout", round, client)
        return torch.randperm(whole, generator=generator)[:kept].sort().values

    return draw


def index_policy(kind: PolicyKind, seed: int, round: int, client: str) -> IndexPolicy:
    """Return the policy of a kind, for a client in a round.

    Parameters
    ----------
    kind
        Which channels are kept.
    seed
        The run's seed.
    round
        From 1.
    client
        The client's name.
    """
    match kind:
        case "leading":
            return leading
        case "rolling":
            return rolling(round)
        case "random":
            return scattered(seed, round, client)


class SliceMap:
    """The indices of a submodel's parameters in the whole network's parameters.

    A group that is kept whole stays in its order, whatever the policy; the classes and the images' channels
    are such groups.

    Parameters
    ----------
    whole, part
        The axes of both networks' parameters; every parameter of the part must be in the whole.
    policy
        Which channels of a group are kept.

    Raises
    ------
    ValueError
        If the part does not fit into the whole.
    """

    def __init__(
        self, whole: Mapping[str, Axes], part: Mapping[str, Axes], policy: IndexPolicy = leading
    ) -> None:
        choose = _Chosen(policy)
        self._indices: dict[str, tuple[Index, ...]] = {}
        for name, axes in part.items():
            if name not in whole:
                raise ValueError(f"parameter {name!r} is not in the whole network")
            if len(axes) != len(whole[name]):
                raise ValueError(f"parameter {name!r}: {len(axes)} dimensions of {len(whole[name])}")
            pairs = zip(whole[name], axes, strict=True)
            self._indices[name] = _as_one(
                tuple(_places(name, around, kept, choose) for around, kept in pairs)
            )

    def __contains__(self, name: str) -> bool:
        return name in self._indices

    def __iter__(self) -> Iterator[str]:
        return iter(self._indices)

    def only(self, names: Collection[str]) -> "SliceMap":
        """Return the map of some of the parameters."""
        some = copy(self)
        some._indices = {name: places for name, places in self._indices.items() if name in names}
        return some

    def places(self, name: str) -> tuple[Index, ...]:
        """Return an index into the whole parameter that selects the part's, in its shape."""
        return self._indices[name]

    def is_view(self, name: str) -> bool:
        """Tell whether the indices are slices, so that indexing returns a view and not a copy."""
        return all(isinstance(places, slice) for places in self._indices[name])

    def extract(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part's parameters, as tensors of their own, from those of the whole network."""
        return {name: whole[name][self.places(name)].clone() for name in self._indices}


class _Chosen:
    """Asks the policy once per group, so that every parameter keeps the same channels of the group."""

    def __init__(self, policy: IndexPolicy) -> None:
        self._policy = policy
        self._known: dict[tuple[str, int, int], Tensor] = {}

    def __call__(self, group: str, whole: int, kept: int) -> Tensor:
        key = (group, whole, kept)
        if key not in self._known:
            self._known[key] = torch.arange(whole) if kept == whole else self._policy(*key)
        return self._known[key]


def _places(name: str, whole: Channels | None, part: Channels | None, choose: _Chosen) -> Index:
    if whole is None and part is None:
        return slice(None)
    if whole is None or part is None or not _fits(part, whole):
        raise ValueError(f"parameter {name!r}: {part} is no part of {whole}")
    offset, places = 0, []
    for (group, size), (_, kept) in zip(whole.groups, part.groups, strict=True):
        places.append(choose(group, size, kept) + offset)
        offset += size
    return _as_slice(torch.cat(places))


def _fits(part: Channels, whole: Channels) -> bool:
    groups = zip_longest(part.groups, whole.groups, fillvalue=("", 0))
    return all(ours == theirs and kept <= size for (ours, kept), (theirs, size) in groups)


def _as_one(index: tuple[Index, ...]) -> tuple[Index, ...]:
    """Return an index that selects every combination of the indices along each dimension.

    Two index tensors would be paired element by element, so they are reshaped to an open mesh.
    """
    if sum(isinstance(places, Tensor) for places in index) < 2:
        return index
    # Only the leading dimensions have any, so that the result keeps the order of the dimensions.
    last = max(axis for axis, places in enumerate(index) if isinstance(places, Tensor))
    mesh = []
    for axis, places in enumerate(index[: last + 1]):
        spread = [1] * (last + 1)
        spread[axis] = -1
        line = places if isinstance(places, Tensor) else torch.arange(places.start, places.stop)
        mesh.append(line.reshape(spread))
    return (*mesh, *index[last + 1 :])


def _as_slice(places: Tensor) -> Index:
    first, count = int(places[0]), len(places)
    if torch.equal(places, torch.arange(first, first + count)):
        return slice(first, first + count)
    return places
