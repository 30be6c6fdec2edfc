"""Merging of adapters of unequal rank (``lora.merge``)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from models.aggregation import Places, WeightAggregator
from models.elastic import SliceMean
from models.vlm.lora import Adapter, adapters_in
from protocol.randomness import derive_seed, torch_generator
from protocol.settings import RunSettings


def merging_of(whole: Mapping[str, Tensor], settings: RunSettings, round: int) -> WeightAggregator:
    """Return the aggregator of a round's submodels; without adapters ``lora.merge`` has no influence.

    Parameters
    ----------
    whole
        The network's trainable and carried parameters before the round, by name.
    settings
        Of the run.
    round
        From 1.
    """
    adapters = adapters_in(whole)
    match settings.lora.merge if adapters else "count":
        case "zero-pad":
            return SliceMean(whole, padded=[name for one in adapters for name in (one.down, one.up)])
        case "svd":
            return SingularValues(whole)
        case "stack":
            return Stacking(whole, settings.lora.scale, derive_seed(settings.seed, f"adapters {round}"))
        case _:
            return SliceMean(whole)


class AdapterProducts(ABC):
    """The mean of the adapters' products B A over the clients that have the layer; all else as `SliceMean`.

    A product is computed in float64 and rounded to float32, so that its sums are as exact, and as independent
    of the order of arrival, as those of `SliceMean`. It keeps one float64 sum of the layer's size per
    adapter, for any number of clients.

    Parameters
    ----------
    whole
        As for `SliceMean`.
    """

    def __init__(self, whole: Mapping[str, Tensor]) -> None:
        self._whole = whole
        self._adapters = adapters_in(whole)
        factors = {name for adapter in self._adapters for name in adapter}
        self._plain = SliceMean({name: tensor for name, tensor in whole.items() if name not in factors})
        self._factors = factors
        self._sums: dict[Adapter, tuple[Tensor, int]] = {}
        self._plain_places: dict[int, tuple[Places, Places]] = {}

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int = 1, client: str = "") -> None:
        """Add one submodel, as in `SliceMean.add`; carried parameters need not be in it."""
        held = [adapter for adapter in self._adapters if adapter.down in where]
        for name in [name for adapter in held for name in (adapter.down, adapter.up)]:
            _require_fit(name, part, tuple(self._whole[name][where.places(name)].shape))
        _, plain = self._plain_places.setdefault(id(where), (where, self._without_factors(where)))
        self._plain.add({name: part[name] for name in part if name not in self._factors}, plain, weight)
        for adapter in held:
            product = part[adapter.up].double() @ part[adapter.down].double()
            total, before = self._sums.get(adapter, (torch.zeros_like(product), 0))
            self._sums[adapter] = (total.add_(product.float().double(), alpha=weight), before + weight)

    def merged(self) -> dict[str, Tensor]:
        """Return the whole network's parameters; an adapter that no client has stays as it is."""
        merged = dict(self._whole) | self._plain.merged()
        for adapter, (total, weight) in self._sums.items():
            merged |= self._become(adapter, total / weight)
        return {name: merged[name] for name in self._whole}

    @abstractmethod
    def _become(self, adapter: Adapter, mean: Tensor) -> Mapping[str, Tensor]:
        """Return the new tensors, given the mean of the products, float64 of shape (outputs, inputs)."""

    def _without_factors(self, where: Places) -> Places:
        return where.only([name for name in where if name not in self._factors])


class SingularValues(AdapterProducts):
    """Truncates the mean product to the rank of the adapter by an SVD (FlexLoRA, Bai et al. 2024).

    Singular vectors are sorted by their values, so that the leading slice of every level is the best adapter
    of its rank. The values go into B: if the product has a lower rank, the rest is like a new adapter, with B
    zero and A not, as otherwise it would never get a gradient. A decomposition takes about
    (size of the layer)^1.5 operations: seconds to a minute for a layer of 4096 x 4096.
    """

    def _become(self, adapter: Adapter, mean: Tensor) -> Mapping[str, Tensor]:
        down, up = self._whole[adapter.down], self._whole[adapter.up]
        left, values, right = torch.linalg.svd(mean, full_matrices=False)
        rank = len(down)
        return {
            adapter.up: (left[:, :rank] * values[:rank]).to(up.dtype),
            adapter.down: right[:rank].to(down.dtype),
        }


class Stacking(AdapterProducts):
    """Adds the whole mean product to the carried delta beside the frozen weights (FLoRA, Wang et al. 2024).

    Adapters are initialised again in the next round: A at random, B at zero.

    Parameters
    ----------
    whole
        As for `SliceMean`.
    scale
        α/r, the factor on a product.
    seed
        Seed of the round's new adapters.
    """

    def __init__(self, whole: Mapping[str, Tensor], scale: float, seed: int) -> None:
        super().__init__(whole)
        self._scale = scale
        self._seed = seed

    def _become(self, adapter: Adapter, mean: Tensor) -> Mapping[str, Tensor]:
        down, up, delta = (self._whole[name] for name in adapter)
        fresh = torch.empty_like(down)
        bound = down.shape[1] ** -0.5  # as adapters begin (Hu et al. 2022's code)
        generator = torch_generator(derive_seed(self._seed, adapter.down), "adapters")
        return {
            adapter.delta: (delta.double() + self._scale * mean).to(delta.dtype),
            adapter.down: fresh.uniform_(-bound, bound, generator=generator),
            adapter.up: torch.zeros_like(up),
        }


def _require_fit(name: str, part: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    if name not in part:
        raise ValueError(f"tensor {name!r}: missing")
    if tuple(part[name].shape) != shape or part[name].dtype != torch.float32:
        raise ValueError(
            f"tensor {name!r}: got {part[name].dtype} of shape {tuple(part[name].shape)}, expected "
            f"{torch.float32} of shape {shape}"
        )
