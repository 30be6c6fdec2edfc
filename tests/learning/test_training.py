import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data import Samples, batches
from data.inputs import TensorInputs
from learning.training import EVALUATION_BATCH, evaluate, learning_rate, predict
from models.elastic import ExitNetwork
from protocol.errors import SettingsError
from protocol.randomness import torch_generator
from protocol.settings import TrainSettings
from tests.strategies.sides import CLASSES, assert_same_weights, linear_network, random_samples
from tests.support.training import fit


@dataclass(frozen=True)
class Fit:
    epochs: int = 1
    batch_size: int = 4
    learning_rate: float = 0.1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_loss(model, samples):
    return lambda indices: F.cross_entropy(model(samples.inputs[indices]), samples.targets[indices])


def weights(model):
    return copy.deepcopy(model.state_dict())


def batch_norm_network():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5), linear_network(0)[1])


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.01)])
def test_fit_is_plain_sgd_over_shuffled_batches(momentum, weight_decay):
    samples, model, reference = random_samples(10), linear_network(0), linear_network(0)

    fit(model, mean_loss(model, samples), 10, Fit(epochs=3), generator(), momentum, weight_decay)

    shuffle, parameters = generator(), list(reference.parameters())
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(3):
        for batch in torch.randperm(10, generator=shuffle).split(4):
            gradients = torch.autograd.grad(mean_loss(reference, samples)(batch), parameters)
            for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
                velocity.mul_(momentum).add_(gradient + weight_decay * parameter.detach())
                parameter.data.sub_(0.1 * velocity)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_fit_shows_every_sample_once_an_epoch():
    model, seen = linear_network(0), []

    def loss(indices):
        seen.extend(indices.tolist())
        return model(torch.ones(1, 1, 2, 2)).sum()

    fit(model, loss, 10, Fit(epochs=2), generator())

    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_fit_follows_from_the_generator_alone():
    samples, models = random_samples(20), [linear_network(0) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(7)  # the global generator is not used
        fit(model, mean_loss(model, samples), 20, Fit(), generator(seed))

    assert_same_weights(models[1].state_dict(), models[0].state_dict())
    assert not torch.equal(models[2][1].weight, models[0][1].weight)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_parameter_that_has_no_part_in_the_loss_stays_as_it_is_and_the_others_learn(optimizer):
    samples, model, alone = random_samples(10), linear_network(0), linear_network(0)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))

    for network in (model, alone):
        fit(network, mean_loss(network, samples), 10, Fit(), generator(), 0.9, 0.0, optimizer)

    assert torch.equal(model.get_parameter("unused"), torch.ones(3))
    learned = {name: tensor for name, tensor in model.state_dict().items() if name != "unused"}
    assert all(torch.equal(learned[name], tensor) for name, tensor in alone.state_dict().items())


def test_fit_on_no_sample_changes_nothing():
    model = linear_network(0)

    fit(model, lambda indices: pytest.fail("there is no batch"), 0, Fit(), generator())

    assert_same_weights(model.state_dict(), linear_network(0).state_dict())


def test_fit_trains_in_train_mode():
    model = batch_norm_network().eval()

    fit(model, mean_loss(model, random_samples(8)), 8, Fit(), generator())

    assert not torch.equal(model[1].running_mean, torch.zeros(4))


def test_batches_of_one_sample_are_for_networks_without_batch_norms():
    samples, model, norms = random_samples(3), linear_network(0), batch_norm_network()
    before = weights(model)
    fit(model, mean_loss(model, samples), 3, Fit(batch_size=1), generator())
    assert not torch.equal(*(next(iter(state.values())) for state in (before, weights(model))))
    with pytest.raises(SettingsError, match=r"train.batch-size = 1: .*at least 2"):
        fit(norms, mean_loss(norms, samples), 3, Fit(batch_size=1), generator())


@pytest.mark.parametrize(
    ("learning_rate", "epochs"), [(1e3, 20), (3e38, 1)], ids=["over epochs", "in the last step alone"]
)
def test_fit_that_diverges_is_an_error_and_restores_nothing(learning_rate, epochs):
    model, inputs = linear_network(0), random_samples(4).inputs

    def loss(indices):
        return 100 * model(inputs[indices]).square().mean()

    with pytest.raises(FloatingPointError, match="diverged"):
        fit(model, loss, 4, Fit(epochs, learning_rate=learning_rate), generator())

    assert not model[1].weight.isfinite().all()


# --- the learning rate ---------------------------------------------------------------------------

# Recorded from ScaleFL's released code, whose rounds begin at 0.
BY_ROUND = {
    "CIFAR": (
        {"learning_rate": 0.1, "milestones": "100,200", "decay": 0.1},
        {0: 0.1, 50: 0.1, 99: 0.1, 100: 0.01, 199: 0.01, 200: 0.001, 299: 0.001},
    ),
    "ImageNet": (
        {"learning_rate": 0.2, "decay": 0.98},
        {1: 0.196, 50: 0.07283393601742336, 99: 0.027065215488725092, 299: 0.0004760215648880435},
    ),
    "text": ({"learning_rate": 3e-5}, {0: 3e-5, 50: 3e-5, 299: 3e-5}),
}


@pytest.mark.parametrize(("schedule", "rates"), BY_ROUND.values(), ids=BY_ROUND)
def test_the_learning_rate_falls_as_in_scalefls_released_code(schedule, rates):
    settings = TrainSettings(**schedule)
    assert {round: learning_rate(settings, round + 1) for round in rates} == pytest.approx(rates, rel=1e-12)


# --- evaluation ----------------------------------------------------------------------------------


def test_predict_gives_the_softmax_of_the_logits():
    model, inputs = linear_network(0), random_samples(5).inputs

    probabilities = predict(model, inputs)

    assert (probabilities.dtype, probabilities.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(probabilities, model(inputs.values).softmax(dim=1).detach())


def test_evaluate_counts_the_right_ones_and_takes_the_mean_loss():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(CLASSES, 4))
    inputs = torch.eye(4)[[0, 1, 2, 2]].reshape(4, 1, 2, 2)

    result = evaluate(model, Samples(TensorInputs(inputs), torch.tensor([0, 1, 2, 0])))

    wrong, right = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0])
    loss = -(3 * right.log_softmax(dim=0)[0] + wrong.log_softmax(dim=0)[0]) / 4
    assert (result.accuracy, result.examples) == (0.75, 4)
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)


def test_more_samples_than_fit_a_batch_are_all_predicted_and_evaluated_as_one():
    count = 2 * EVALUATION_BATCH + 3
    model, samples = linear_network(0), random_samples(count)

    logits = model(samples.inputs.values).detach()
    torch.testing.assert_close(predict(model, samples.inputs), logits.softmax(dim=1))
    result = evaluate(model, samples)
    assert result.examples == count
    assert result.loss == pytest.approx(F.cross_entropy(logits, samples.targets).item(), rel=1e-5)


def test_a_network_of_which_one_input_takes_much_memory_is_given_few_at_once():
    class Wide(ExitNetwork):
        answers_at_once = 4

        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, CLASSES)
            self.seen = []

        def exits(self, inputs):
            self.seen.append(len(inputs))
            return [self.linear(inputs.flatten(1))]

    model = Wide()
    evaluate(model, random_samples(10))
    assert sum(model.seen) == 10
    assert max(model.seen) <= 4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("score", [lambda model, samples: predict(model, samples.inputs), evaluate])
def test_predict_and_evaluate_use_eval_mode_and_leave_the_mode_and_the_network_as_they_were(score, training):
    model, samples = batch_norm_network().train(training), random_samples(6)
    before = weights(model)

    assert repr(score(model, samples)) == repr(score(model, samples))  # no dropout

    assert all(module.training == training for module in model.modules())
    assert_same_weights(model.state_dict(), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_after_an_error_too(training):
    model = linear_network(0).train(training)

    with pytest.raises(RuntimeError):
        predict(model, TensorInputs(torch.zeros(2, 1, 3, 3)))

    assert model.training == training


RULES = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.3, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.3, weight_decay=0.01),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_step_is_that_of_torch_s_own_optimizer(rule):
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    inputs, targets = torch.randn(20, 4), torch.randint(3, (20,))
    settings = TrainSettings(epochs=3, batch_size=6, learning_rate=0.3)

    def loss_of(model):
        return lambda indices: torch.nn.functional.cross_entropy(model(inputs[indices]), targets[indices])

    generator = torch_generator(1, "test")
    momentum = 0.9
    fit(ours, loss_of(ours), 20, settings, generator, momentum, weight_decay=0.01, optimizer=rule)
    optimizer = RULES[rule](theirs.parameters())
    generator = torch_generator(1, "test")
    for _ in range(3):
        for indices in batches(20, 6, generator):
            optimizer.zero_grad()
            loss_of(theirs)(indices).backward()
            optimizer.step()
    assert all(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in ours.state_dict())
