"""The training loop with one of our optimizers."""

from learning import training
from learning.optimizers import OptimizerOptions, optimizer_maker
from protocol.settings import DEFAULTS


def fit(model, loss, samples, settings, generator, momentum=0.0, weight_decay=0.0, optimizer="sgd", **others):
    """Train a model in place; the learning rate is the settings'."""
    options = OptimizerOptions(settings.learning_rate, momentum, weight_decay)
    maker = optimizer_maker(optimizer, options, DEFAULTS)
    training.fit(model, loss, samples, settings, generator, maker, **others)
