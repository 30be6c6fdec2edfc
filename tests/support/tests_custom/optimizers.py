"""One of torch's own optimizers."""

import torch


def rmsprop(parameters, options, settings):
    return torch.optim.RMSprop(parameters, lr=options.learning_rate / 100)
