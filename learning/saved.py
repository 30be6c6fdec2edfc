"""A run's saved models, network or estimator, read back for use.

from learning.saved import load_model
learner = load_model(Path("~/motley/runs/…/models/server.safetensors").expanduser())
probabilities = learner.predict(inputs)
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from learning.estimator_learner import EstimatorLearner
from learning.learner import Learner, TorchLearner
from learning.precision import FLOAT32
from models import build_elastic, build_model, elastic_design, load_weights
from models.elastic import Shape
from models.network import Estimator
from models.registry import model_of
from protocol.errors import ResumeError
from protocol.settings import RunSettings


def model_facts(
    model: str,
    settings: RunSettings,
    input_shape: tuple[int, ...],
    num_classes: int,
    shape: Shape | None = None,
) -> dict[str, str]:
    """Return what `load_model` must know of a model beside its weights, as the metadata of its file.

    Parameters
    ----------
    model
        The name of the network or estimator.
    settings
        Of the run.
    input_shape
        Shape of one input.
    num_classes
        Width of its answers.
    shape
        Of the submodel of an elastic network; None: the whole.
    """
    facts = {"settings": settings.flat(), "input-shape": input_shape, "num-classes": num_classes}
    if shape is not None:
        facts |= {"width": shape.width, "exits": shape.exits}
    return {"model": model, **{name: json.dumps(value) for name, value in facts.items()}}


def load_model(path: Path) -> Learner:
    """Read a model that a run saved: ``models/server.safetensors``, or a client's beside it.

    Of strategies that train submodels the server's model has no statistics of norms, and is written for use
    by `server_app.export`.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Learner
        On the CPU. Its ``predict`` takes inputs in the form that the run's ``data.json`` describes.

    Raises
    ------
    ResumeError
        If the file is missing, damaged, or holds no such model.
    SettingsError
        If what it names is not there, as a library or the user's own code.
    """
    weights, facts = load_weights(path)
    try:
        learner = _learner(facts)
        learner.load(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ResumeError(
            f"{path}: holds no model that can be read ({error}); submodels are written for use by "
            "server_app.export"
        ) from error
    return learner


def _learner(facts: Mapping[str, str]) -> Learner:
    name, settings = facts["model"], RunSettings.parse(json.loads(facts["settings"]))
    input_shape, num_classes = tuple(json.loads(facts["input-shape"])), int(facts["num-classes"])
    found = model_of(name)
    if isinstance(found, Estimator):
        return EstimatorLearner(found, settings, name, num_classes)
    if not found.pretrained:  # the file's weights are all it needs
        settings = settings.model_copy(update={"pretrained": ""})
    if "exits" in facts:
        shape = Shape(json.loads(facts["width"]), tuple(json.loads(facts["exits"])))
        design = elastic_design(name, settings)
        network: torch.nn.Module = build_elastic(design, input_shape, num_classes, 0, shape)
    else:
        network = build_model(name, input_shape, num_classes, 0, settings)
    return TorchLearner(network, settings, name, FLOAT32)
