"""Where memory is too small, work goes on in smaller batches, and gives what it would have given."""

import copy
import resource
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from data import augment
from learning.distillation import distil
from learning.memory import Halving, MemoryShortageError, is_out_of_memory
from learning.precision import FLOAT32
from learning.step import Step
from learning.training import EVALUATION_BATCH, evaluate, exit_logits, predict
from protocol.randomness import torch_generator
from protocol.settings import DistillationSettings, RunSettings, TrainSettings
from strategies.submodels.loss import (
    balanced_loss,
    masked_loss,
    mutual_loss,
    official_loss,
    self_distillation_loss,
)
from tests.learning.short_memory import CUDA_SAYS, SHORTAGES, ShortMemory
from tests.learning.test_precision import ScaledFloat32
from tests.strategies.sides import CLASSES, assert_same_weights, linear_network, random_samples
from tests.support.processes import PROJECT
from tests.support.training import fit

CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def generator():
    return torch_generator(1, "memory")


def mean_loss(model, samples):
    return lambda indices: F.cross_entropy(model(samples.inputs[indices]), samples.targets[indices])


def train(model, samples, epochs=2, batch_size=8, arithmetic=FLOAT32, **others):
    table = TrainSettings(epochs=epochs, batch_size=batch_size, learning_rate=0.5)
    loss = mean_loss(model, samples)
    fit(model, loss, len(samples), table, generator(), momentum=0.9, arithmetic=arithmetic, **others)


def plain_state(model):
    """Return the weights of the network inside."""
    return (model.inner if isinstance(model, ShortMemory) else model).state_dict()


def assert_close_weights(got, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, **CLOSE)


# --- a step --------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=40)  # each halving collects garbage
@given(
    samples=st.integers(1, 40),
    most=st.integers(1, 40),
    backward=st.booleans(),
    shortage=st.sampled_from(sorted(SHORTAGES)),
)
def test_the_gradients_and_the_loss_are_those_of_the_whole_batch(samples, most, backward, shortage):
    whole, data = linear_network(0), random_samples(samples)
    short = ShortMemory(linear_network(0), most, backward, SHORTAGES[shortage])
    found = {}
    for name, model in (("whole", whole), ("short", short)):
        parameters = list(model.parameters())
        step = Step(model, mean_loss(model, data), lambda i: (i,), samples, parameters, FLOAT32)
        found[name] = step(torch.arange(samples))

    (loss, gradients), (expected_loss, expected) = found["short"], found["whole"]
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, **CLOSE)
    tried = [size for size in short.sizes if size > most]
    assert short.sizes[: len(tried)] == tried  # none again once a smaller one fitted
    assert sum(short.sizes[len(tried) :]) == samples


@pytest.mark.parametrize("backward", [False, True])
def test_nothing_of_a_step_that_failed_is_left_when_it_is_done_again(backward, monkeypatch):
    monkeypatch.setattr("learning.memory.gc.collect", lambda: None)  # it is gone without
    model = ShortMemory(linear_network(0), 2, backward)

    train(model, random_samples(16), epochs=1, batch_size=16)

    assert model.sizes == [16, 8, 4, *[2] * 8]
    assert model.alive == [0] * len(model.sizes)


def test_the_losses_of_scalefl_and_its_relatives_are_means_over_samples():
    """So the losses of micro-batches, weighted by their samples, sum to the loss of the batch."""
    torch.manual_seed(0)
    logits, targets = [torch.randn(10, CLASSES) for _ in range(3)], torch.arange(10) % CLASSES
    counts = torch.bincount(targets, minlength=CLASSES)
    class_losses = [F.cross_entropy, masked_loss(counts), balanced_loss(counts)]
    for class_loss in class_losses:
        for exits_loss in (self_distillation_loss, official_loss, mutual_loss):
            whole = exits_loss(logits, targets, 0.7, 3.0, class_loss)
            parts = sum(
                len(rows) / 10 * exits_loss([z[rows] for z in logits], targets[rows], 0.7, 3.0, class_loss)
                for rows in torch.arange(10).tensor_split(3)
            )
            torch.testing.assert_close(parts, whole, **CLOSE)


# --- a training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("most", [1, 3, 5])
def test_weights_after_training_are_those_with_memory_enough(most, backward):
    samples, whole = random_samples(27), linear_network(0)
    short = ShortMemory(linear_network(0), most, backward)

    train(whole, samples)
    train(short, samples)

    assert_close_weights(plain_state(short), whole.state_dict())
    assert not torch.equal(whole[1].weight, linear_network(0)[1].weight)


def test_a_limit_that_is_not_met_changes_no_bit():
    samples, whole, roomy = random_samples(25), linear_network(0), ShortMemory(linear_network(0), 9)

    train(whole, samples)
    train(roomy, samples)  # the ninth sample is the one left over, which joins the last batch

    assert max(roomy.sizes) == 9
    assert_same_weights(plain_state(roomy), whole.state_dict())


def test_the_smaller_micro_batch_is_remembered_and_each_halving_told_once(caplog):
    model = ShortMemory(linear_network(0), 16)

    train(model, random_samples(128), batch_size=64)

    assert model.sizes == [64, 32, *[16] * 16]
    assert [record.getMessage() for record in caplog.records if record.name == "flwr"] == [
        "Out of memory at batch size 64: continuing with micro-batches of 32",
        "Out of memory at batch size 32: continuing with micro-batches of 16",
    ]


def test_the_next_training_tries_whole_batches_again():
    model = ShortMemory(linear_network(0), 4)
    for _ in range(2):
        train(model, random_samples(8), epochs=1)
    assert model.sizes == [8, 4, 4] * 2


def test_where_one_sample_does_not_fit_the_error_says_so_with_the_numbers():
    model = ShortMemory(linear_network(0), 0)
    message = (
        r"out of memory even at batch size 1: on cpu the network's 15 parameters alone take 0\.00018 MB with "
        rf"their gradients and momentum\. Use a smaller network or level.*{CUDA_SAYS[:20]}"
    )
    with pytest.raises(MemoryShortageError, match=message):
        train(model, random_samples(8))
    assert model.sizes == [8, 4, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("batch"), KeyError("weight")])
def test_other_errors_pass_as_they_are(error):
    model = ShortMemory(linear_network(0), 1, shortage=lambda: error)
    with pytest.raises(type(error)) as caught:
        train(model, random_samples(8))
    assert caught.value is error
    assert model.sizes == [8]
    assert not is_out_of_memory(error)


def test_memory_too_small_for_the_weights_themselves_is_told_too(monkeypatch):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError(CUDA_SAYS)

    monkeypatch.setattr("learning.optimizers.sgd", no_room)
    with pytest.raises(MemoryShortageError, match="out of memory even at batch size 8"):
        train(linear_network(0), random_samples(8))


def test_a_step_that_is_done_again_learns_from_the_same_augmented_batch():
    samples, drawn = random_samples(12), {}

    def trained(model, name):
        augmentation = torch_generator(0, "augmentation")

        def draw(indices):
            inputs = augment(samples.inputs[indices], "shift", augmentation)
            drawn.setdefault(name, []).append(inputs)
            return inputs, samples.targets[indices]

        def loss(inputs, targets):
            return F.cross_entropy(model(inputs), targets)

        fit(model, loss, 12, TrainSettings(epochs=2, batch_size=4), generator(), draw=draw)
        return plain_state(model)

    expected = trained(linear_network(0), "whole")
    got = trained(ShortMemory(linear_network(0), 1), "short")

    assert len(drawn["whole"]) == 6
    for pair in zip(drawn["short"], drawn["whole"], strict=True):
        assert torch.equal(*pair)
    assert_close_weights(got, expected)


@pytest.mark.parametrize(("samples", "sizes"), [(16, [16, 8, 4, *[2] * 8]), (7, [7, 4, 3, 2, 2])])
def test_no_micro_batch_of_a_network_with_batch_norms_has_one_sample(samples, sizes):
    """One sample has no variance. Seven make micro-batches of 4 and 3, then of 3, 2 and 2."""
    inner = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), linear_network(0)[1])
    model = ShortMemory(inner, 3 if samples == 7 else 2)

    train(model, random_samples(samples), epochs=1, batch_size=16)

    assert model.sizes == sizes


def test_a_network_with_batch_norms_gives_up_at_two_samples():
    inner = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), linear_network(0)[1])
    with pytest.raises(MemoryShortageError, match="even at batch size 2"):
        train(ShortMemory(inner, 1), random_samples(8))


def test_gradients_that_share_a_tensor_are_summed_apart():
    model = nn.ParameterList([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))])

    def loss(indices):
        if len(indices) > 2:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        return (model[0] + model[1]).sum() * len(indices) / len(indices)

    fit(model, loss, 8, TrainSettings(epochs=1, batch_size=8, learning_rate=0.25), generator())

    assert [parameter.item() for parameter in model] == [0.75, 0.75]


# --- every kind of training ----------------------------------------------------------------------


def test_scaled_gradients_are_summed_too():
    samples, whole = random_samples(24), linear_network(0)
    short, arithmetic = ShortMemory(linear_network(0), 2, backward=True), ScaledFloat32()

    train(whole, samples)
    train(short, samples, arithmetic=arithmetic)

    assert_close_weights(plain_state(short), whole.state_dict())
    assert arithmetic.scaled.scale == 2.0**16


def test_a_micro_batch_whose_gradients_overflow_is_done_again():
    model, sizes = nn.Linear(1, 1, bias=False), []
    before = model.weight.item()

    def loss(indices):
        if len(indices) > 2:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        sizes.append(len(indices))
        return model(torch.ones(1, 1)).sum() * 2e34  # half of it, times the first scale, is not finite

    settings = TrainSettings(epochs=1, batch_size=4, learning_rate=5e-35)
    fit(model, loss, 4, settings, generator(), arithmetic=ScaledFloat32())

    assert model.weight.item() == pytest.approx(before - 1)
    assert sizes == [2, 2, 2]


def test_distillation_goes_on_in_micro_batches():
    inputs, labels = random_samples(20).inputs, torch.rand(20, CLASSES).softmax(dim=1)
    whole, short = linear_network(0), ShortMemory(linear_network(0), 3, backward=True)
    for model in (whole, short):
        settings = RunSettings(distillation=DistillationSettings(epochs=2, batch_size=10))
        distil(model, inputs, labels, settings, generator())

    assert_close_weights(plain_state(short), whole.state_dict())
    assert short.sizes[:3] == [10, 5, 3]


# --- evaluation ----------------------------------------------------------------------------------


def test_answers_come_in_smaller_batches(caplog):
    count = EVALUATION_BATCH + 20
    samples, whole = random_samples(count), linear_network(0)
    short = ShortMemory(copy.deepcopy(whole), 100)

    assert torch.equal(predict(short, samples.inputs), predict(whole, samples.inputs))
    assert evaluate(short, samples) == evaluate(whole, samples)
    assert torch.equal(exit_logits(short, samples.inputs)[0], exit_logits(whole, samples.inputs)[0])

    assert short.sizes[:3] == [260, 130, 65]
    assert "Out of memory at batch size 260: continuing with micro-batches of 130" in caplog.text


def test_an_answer_to_one_sample_that_does_not_fit_is_an_error_and_the_mode_is_restored():
    model = ShortMemory(linear_network(0), 0).train()
    with pytest.raises(MemoryShortageError, match="out of memory even at batch size 1"):
        predict(model, random_samples(3).inputs)
    assert model.training


def test_no_sample_at_all_is_one_empty_batch():
    assert Halving(10)(lambda size: size, 0) == 1


# --- memory itself -------------------------------------------------------------------------------

TRAINING = """
import resource, torch, torch.nn.functional as F
from torch import nn
from data.inputs import TensorInputs
from protocol.settings import TrainSettings
from learning.training import predict
from tests.support.training import fit

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(16, 20_000), nn.Tanh(), nn.Linear(20_000, 3))
inputs, targets = torch.rand(512, 1, 4, 4), torch.arange(512) % 3
loss = lambda indices: F.cross_entropy(model(inputs[indices]), targets[indices])
torch.autograd.grad(loss(torch.arange(2)), list(model.parameters()))
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + {spare},) * 2)
fit(model, loss, 512, TrainSettings(epochs=1, batch_size=512), torch.Generator().manual_seed(1))
print(model[3].bias.tolist())
"""
PLENTY, LITTLE = 2**30, 60 * 10**6
"""Bytes; a batch's activations take 41 MB twice over, and their gradients as much."""


def trained_with(spare):
    done = subprocess.run(
        [sys.executable, "-c", TRAINING.format(spare=spare)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return eval(done.stdout), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs a limit of the address space")
def test_a_process_whose_memory_is_limited_learns_the_same():
    whole, told_nothing = trained_with(PLENTY)
    short, told = trained_with(LITTLE)

    assert "Out of memory" not in told_nothing
    assert "Out of memory at batch size 512: continuing with micro-batches of 256" in told
    assert short == pytest.approx(whole, rel=1e-4)
