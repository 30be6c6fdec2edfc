"""ScaleFL and its relatives as methods, one for each entry of ``variants.py``."""

from dataclasses import dataclass
from functools import partial

from strategies.method import Exchanges, Method
from strategies.submodels.client import SubmodelClient
from strategies.submodels.server import SubmodelServer
from strategies.submodels.variants import VARIANTS, Variant


@dataclass(frozen=True)
class SubmodelMethod(Method):
    """A method whose clients train submodels, as its variant says."""

    variant: Variant = VARIANTS["scalefl"]


def submodel_method(name: str, variant: Variant) -> SubmodelMethod:
    """Return the method of a variant."""
    return SubmodelMethod(
        name,
        Exchanges.SUBMODELS,
        partial(SubmodelServer, variant),
        partial(SubmodelClient, variant),
        _settings_of(variant),
        variant,
    )


def _settings_of(variant: Variant) -> tuple[str, ...]:
    """Return the settings that a variant reads: without early exits those of their losses are unused."""
    read = ["classes", "weighting", "calibration"]
    if variant.exits != "last":
        read += ["distillation", "temperature", "start"]
    if variant.exits == "self":
        read += ["loss", "exit-weights"]
    return (*(f"scalefl.{key}" for key in read), "lora.merge")


SUBMODEL_METHODS = {name: submodel_method(name, variant) for name, variant in VARIANTS.items()}
