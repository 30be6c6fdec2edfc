"""Low-rank adapters of a decoder (LoRA, Hu et al. 2022), whose rank is the width that levels cut."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.elastic.channels import Channels
from protocol.errors import SettingsError

_ADAPTER = "default"
_DOWN, _UP, _DELTA = f".lora_A.{_ADAPTER}.weight", f".lora_B.{_ADAPTER}.weight", ".base_layer.delta"


class Adapter(NamedTuple):
    """The names of one adapted layer's tensors: W x + Δ x + s·B A x."""

    down: str
    """A, of shape (rank, inputs)."""
    up: str
    """B, of shape (outputs, rank)."""
    delta: str
    """Δ, of shape (outputs, inputs); only where adapters are stacked."""


def adapters_in(names: Iterable[str]) -> list[Adapter]:
    """Return the adapters among a network's tensors."""
    layers = [name.removesuffix(_DOWN) for name in names if name.endswith(_DOWN)]
    return [Adapter(layer + _DOWN, layer + _UP, layer + _DELTA) for layer in layers]


class WithDelta(nn.Module):
    """A frozen layer and the sum of earlier rounds' updates to it (FLoRA, Wang et al. 2024).

    The sum belongs to the run, so it is sent to clients, but training does not change it.
    """

    carried = ("delta",)

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.delta = nn.Parameter(torch.zeros(layer.out_features, layer.in_features), requires_grad=False)
        self.axes = {"delta": (None, None)}

    @property
    def weight(self) -> Tensor:
        """The frozen layer's, by which peft knows where it is."""
        weight: Tensor = self.layer.weight
        return weight

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        frozen: Tensor = self.layer(features)
        return frozen + F.linear(features, self.delta.to(features.dtype))


def add_adapters(decoder: nn.Module, targets: Sequence[str], rank: int, scale: float, stacked: bool) -> None:
    """Add adapters to layers of a decoder, in place; afterwards only they have gradients.

    A is initialised randomly and B with zeros, so that the decoder's output does not change.

    Parameters
    ----------
    decoder
        Its blocks are called ``layers``.
    targets
        Names of linear layers in each of these.
    rank
        Of the adapters.
    scale
        α/r, the same for every rank, so that a leading slice of an adapter is an adapter.
    stacked
        Whether the updates of earlier rounds are kept as a delta beside the frozen weights.

    Raises
    ------
    SettingsError
        If there is no such layer, or one is smaller than the rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    found = _layers(decoder, targets)
    for name, layer in found.items():
        if rank > min(layer.in_features, layer.out_features):
            raise SettingsError(
                f"lora.rank: {rank} is more than {name!r} can have, a layer of {layer.out_features} x "
                f"{layer.in_features}"
            )
    config = LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=list(found))  # type: ignore[arg-type]
    inject_adapter_in_model(config, decoder, _ADAPTER)
    for name in found:
        adapted: Any = decoder.get_submodule(name)
        adapted.scaling[_ADAPTER] = scale
        if stacked:
            adapted.base_layer = WithDelta(adapted.base_layer)
        # Adapters are float32 in every precision of the base.
        down, up = adapted.lora_A.float()[_ADAPTER], adapted.lora_B.float()[_ADAPTER]
        ranks = Channels.of(f"{name}.rank", rank)
        down.axes, up.axes = {"weight": (ranks, None)}, {"weight": (None, ranks)}


def _layers(decoder: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    linear = {
        name: module
        for name, module in decoder.named_modules()
        if name.startswith("layers.") and hasattr(module, "in_features")
    }
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        if target not in kinds:
            raise SettingsError(
                f'lora.targets = "{",".join(targets)}": the decoder has no {target!r}; there are '
                f"{', '.join(kinds)}"
            )
    return {name: module for name, module in linear.items() if name.rpartition(".")[2] in targets}
