"""A weight aggregator that is no mean: it sees each client's weights and where they lie."""

import torch


class Median:
    """The median of the clients that cover a value, by each value; it keeps all until the end."""

    def __init__(self, whole, settings, round):
        self._whole = whole
        self._parts = {}

    def add(self, part, where, weight, client):
        for name in [*where, *part]:
            if name not in part or name not in where:
                raise ValueError(f"tensor {name!r}: missing or unexpected")
            if part[name].shape != self._whole[name][where.places(name)].shape:
                raise ValueError(f"tensor {name!r}: of another shape")
        self._parts[client] = {name: (where.places(name), tensor) for name, tensor in part.items()}

    def merged(self):
        return {name: self._merge(name, before) for name, before in self._whole.items()}

    def _merge(self, name, before):
        own = [self._parts[client][name] for client in sorted(self._parts) if name in self._parts[client]]
        if not own or not before.is_floating_point():
            return before
        stacked = torch.full((len(own), *before.shape), float("nan"))
        for layer, (places, tensor) in zip(stacked, own, strict=True):
            layer[places] = tensor.float()
        median = stacked.nanmedian(dim=0).values
        return torch.where(median.isnan(), before, median.to(before.dtype))
