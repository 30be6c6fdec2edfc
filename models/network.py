"""Definitions of networks and estimators: what is known of them before they are built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.elastic.network import ElasticDesign
from models.pretrained import Published, as_published
from protocol.settings import RunSettings
from protocol.values import InputKind

__all__ = ["ANYTHING", "Estimator", "InputKind", "Network", "NetworkBuilder", "elastic"]

ANYTHING: frozenset[InputKind] = frozenset({"images", "numbers", "texts", "arrays"})

NetworkBuilder = Callable[[tuple[int, ...], int, RunSettings], nn.Module]
"""Builds a network for inputs of a shape and a number of classes, with random weights."""

Remedy = Callable[[tuple[int, ...], int, RunSettings], str]
"""Says what to set where a network does not take inputs of a shape; nothing if that is not known."""


def _no_remedy(shape: tuple[int, ...], classes: int, settings: RunSettings) -> str:
    return ""


@dataclass(frozen=True)
class Network:
    """A kind of network.

    Parameters
    ----------
    name
        Its name in the settings.
    reads
        The kinds of inputs that it takes.
    build
        Builds it with random weights; an elastic network is built whole, without early exits.
    design
        For an elastic network: returns its design, given a run's settings. None: it has no submodels.
    settings
        The tables of settings, or single keys, that it reads and not every run does.
    pretrained
        Whether its own builder reads the checkpoint that ``pretrained`` names; into any other network the
        weights are put after it is built.
    generates_text
        Whether it can answer a question in free text.
    tried
        Whether a batch was sent through it for every kind of input it reads, by our tests.
    checkpoint
        The place of its weights, if its name is that place; empty: it has none of its own.
    remedy
        Says what would make inputs fit that it does not take.
    published
        Brings the weights that ``pretrained`` names to the network's own names.
    """

    name: str
    reads: frozenset[InputKind]
    build: NetworkBuilder
    design: Callable[[RunSettings], ElasticDesign] | None = None
    settings: tuple[str, ...] = ()
    pretrained: bool = False
    generates_text: bool = False
    tried: bool = False
    checkpoint: str = ""
    remedy: Remedy = _no_remedy
    published: Published = as_published

    @property
    def is_elastic(self) -> bool:
        """Whether it has submodels."""
        return self.design is not None


@dataclass(frozen=True)
class Estimator:
    """A learner that is not a network: it has ``fit`` and ``predict_proba``, as in scikit-learn.

    Parameters
    ----------
    name
        As the settings have it.
    make
        Makes an unfitted one, given a seed.
    dump
        Writes a fitted one as bytes, without pickle.
    load
        Reads it back.
    """

    name: str
    make: Callable[[int], Any]
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]


def elastic(
    name: str,
    design: Callable[[RunSettings], ElasticDesign],
    reads: InputKind = "images",
    settings: tuple[str, ...] = (),
    pretrained: bool = False,
    generates_text: bool = False,
) -> Network:
    """Return the definition of an elastic network, which also reads the table ``levels``.

    Parameters
    ----------
    name
        As the settings have it.
    design
        Returns its design, given a run's settings.
    reads, settings, pretrained, generates_text
        See `Network`.
    """

    def build(input_shape: tuple[int, ...], num_classes: int, run: RunSettings) -> nn.Module:
        found = design(run)
        return found.build(input_shape, num_classes, found.whole())

    return Network(
        name,
        frozenset({reads}),
        build,
        design,
        ("levels", *settings),
        pretrained,
        generates_text,
        tried=True,
    )
