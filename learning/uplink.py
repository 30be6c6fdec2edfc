"""Uplink transforms: changes to weights or predictions before they are sent, such as clipping or noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from protocol.errors import SettingsError
from protocol.randomness import torch_generator
from protocol.references import Registry
from protocol.settings import RunSettings
from protocol.values import split_names

LABELS = "labels"
"""The name of a client's predictions among the tensors of an `Update`."""
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Update:
    """What a client sends in a round, before transforms.

    Parameters
    ----------
    tensors
        Trained weights by name; or predictions, float32 of shape (n, classes), under the name ``labels``.
    received
        The weights received at the start of the round, by name; empty if labels are sent.
    client
        The client's name.
    round
        From 1.
    generator
        For all random draws; derived from the run's seed, the transform's place in the list, round and
        client.
    settings
        Of the run.
    """

    tensors: Mapping[str, Tensor]
    received: Mapping[str, Tensor]
    client: str
    round: int
    generator: torch.Generator
    settings: RunSettings


UplinkTransform = Callable[[Update], Mapping[str, Tensor]]
"""Returns the tensors to send in place of ``update.tensors``: the same names, shapes and dtypes."""

_only_for_weights: set[UplinkTransform] = set()
_only_for_labels: set[UplinkTransform] = set()


def for_weights(transform: UplinkTransform) -> UplinkTransform:
    """Mark a transform, as a decorator, as one for weights only: methods that send soft labels refuse it."""
    _only_for_weights.add(transform)
    return transform


def for_labels(transform: UplinkTransform) -> UplinkTransform:
    """Mark a transform, as a decorator, as one for soft labels only: methods that send weights refuse it."""
    _only_for_labels.add(transform)
    return transform


def require_transforms(settings: RunSettings, sends_labels: bool) -> None:
    """Refuse uplink transforms that do not fit what a run's clients send.

    Parameters
    ----------
    settings
        Of the run.
    sends_labels
        Whether clients send soft labels; if not, they send weights.

    Raises
    ------
    SettingsError
        If ``uplink`` names something that is not a transform, or a transform of the other kind.
    """
    unfit, what = (_only_for_weights, "weights") if sends_labels else (_only_for_labels, "soft labels")
    for name in split_names(settings.uplink):
        if REGISTRY.find(name) in unfit:
            raise SettingsError(
                f'uplink = "{name}": changes {what}, which strategy {settings.strategy} does not send'
            )


def _accept(found: object, reference: str) -> UplinkTransform:
    if not callable(found):
        raise TypeError(
            "must be an uplink transform: a function of a learning.uplink.Update that returns its tensors, "
            "changed"
        )
    return cast("UplinkTransform", found)


REGISTRY: Registry[UplinkTransform] = Registry("uplink", {}, _accept)


def transformed(
    tensors: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
    client: str,
    round: int,
    settings: RunSettings,
) -> Mapping[str, Tensor]:
    """Apply a run's uplink transforms, in their order.

    Parameters
    ----------
    tensors, received, client, round, settings
        See `Update`.

    Raises
    ------
    SettingsError
        If ``uplink`` names something that is not a transform, or a transform returns other names, shapes or
        dtypes, or labels that are not probabilities.
    """
    for place, name in enumerate(split_names(settings.uplink), start=1):
        generator = torch_generator(settings.seed, f"uplink {place}", round, client)
        update = Update(tensors, received, client, round, generator, settings)
        changed = dict(REGISTRY.find(name)(update))
        if fault := _fault(changed, tensors):
            raise SettingsError(f'uplink = "{name}": {fault}')
        tensors = changed
    return tensors


def _fault(changed: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> str:
    """Return why a transform's result cannot be sent; empty if it can."""
    if changed.keys() != before.keys():
        return f"returned tensors {sorted(changed)}, expected {sorted(before)}"
    for name, tensor in changed.items():
        got, wanted = (tensor.dtype, tuple(tensor.shape)), (before[name].dtype, tuple(before[name].shape))
        if got != wanted:
            return (
                f"tensor {name!r}: returned {got[0]} of shape {got[1]}, expected {wanted[0]} of {wanted[1]}"
            )
        if not tensor.isfinite().all():
            return f"tensor {name!r}: not all values are finite"
    if before.keys() == {LABELS} and changed[LABELS].ndim == 2 and not _are_probabilities(changed[LABELS]):
        return "labels must remain probabilities: none negative, each row with a sum of 1"
    return ""


def _are_probabilities(labels: Tensor) -> bool:
    sums = labels.double().sum(dim=1)
    return bool((labels >= 0).all()) and bool(((sums - 1).abs() <= _SUM_TOLERANCE).all())
