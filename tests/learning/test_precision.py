"""Networks compute in fewer bits; weights, losses and messages do not."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from data import load_client_data, load_server_test
from learning.precision import (
    FLOAT32,
    Arithmetic,
    ScaledGradients,
    _cpu_has_bfloat16,
    plain_gradients,
    usable_precision,
)
from learning.training import evaluate, exit_logits, mean_over_exits, predict
from models import build_model
from protocol.errors import SettingsError, TrainingError
from protocol.randomness import torch_generator
from protocol.settings import RunSettings, TrainSettings
from tests.strategies.sides import (
    CPU,
    assert_same_weights,
    client_side,
    linear_network,
    random_samples,
    server_side,
    tiny_settings,
)
from tests.support.training import fit

BFLOAT16 = Arithmetic("bf16", CPU)
GPU = torch.device("cuda")


class HalfOnCpu:
    """Float16 as on a GPU; a CPU computes it too, if slowly."""

    def autocast(self):
        return torch.autocast("cpu", torch.float16)

    def gradients(self):
        return ScaledGradients()


class ScaledFloat32:
    """What float16 does to gradients, and nothing else."""

    def __init__(self):
        self.scaled = ScaledGradients()

    def autocast(self):
        return nullcontext()

    def gradients(self):
        return self.scaled


# --- what is allowed -----------------------------------------------------------------------------

REFUSAL = r'precision = "fp16": needs a GPU, the device is a cpu; allowed are fp32, bf16'


def test_float16_is_refused_without_a_gpu():
    with pytest.raises(SettingsError, match=REFUSAL):
        Arithmetic("fp16", CPU)
    assert isinstance(Arithmetic("fp16", GPU).gradients(), ScaledGradients)


def test_both_sides_refuse_it_when_they_are_made(tmp_path):
    settings = tiny_settings(precision="fp16")
    with pytest.raises(SettingsError, match=REFUSAL):
        server_side(settings)
    with pytest.raises(SettingsError, match=REFUSAL):
        client_side(settings, "ada", tmp_path)


def test_sides_compute_as_the_run_says(tmp_path):
    settings = tiny_settings(precision="bf16")
    assert server_side(settings).arithmetic == client_side(settings, "ada", tmp_path).arithmetic == BFLOAT16


# --- what a device has ---------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_precision_that_a_cpu_has_is_taken(wanted, monkeypatch):
    monkeypatch.setattr("learning.precision._cpu_has_bfloat16", lambda: True)
    assert usable_precision(wanted, CPU) == (wanted, "")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("bf16", "this CPU does not support it"), ("fp16", "it is slower than fp32 on a CPU")],
)
def test_one_that_a_cpu_has_not_is_replaced_and_said_why(wanted, reason, monkeypatch):
    monkeypatch.setattr("learning.precision._cpu_has_bfloat16", lambda: False)
    assert usable_precision(wanted, CPU) == ("fp32", f'precision = "{wanted}": {reason}, computing in fp32')


def test_whether_this_cpu_has_bfloat16_can_be_told():
    assert _cpu_has_bfloat16() in (True, False)


@pytest.mark.parametrize(
    ("wanted", "supported", "expected"),
    [
        ("fp32", False, ("fp32", "")),
        ("fp16", False, ("fp16", "")),
        ("bf16", True, ("bf16", "")),
        (
            "bf16",
            False,
            (
                "fp32",
                'precision = "bf16": Tesla T4 (compute capability 7.5, needed is 8.0) does not support it, '
                "computing in fp32",
            ),
        ),
    ],
)
def test_an_old_card_computes_in_float32_where_bfloat16_is_asked_for(
    wanted, supported, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert usable_precision(wanted, GPU) == expected


# --- what it changes -----------------------------------------------------------------------------


def computed_in(arithmetic, use):
    """Return in which type a network's layer answers while it is used."""
    model, types = linear_network(0), []
    model[1].register_forward_hook(lambda layer, inputs, output: types.append(output.dtype))
    use(model, random_samples(6), arithmetic)
    return set(types)


def train(model, samples, arithmetic):
    def loss(indices):
        inputs, targets = samples.inputs[indices], samples.targets[indices]
        return mean_over_exits(model, inputs, lambda logits: F.cross_entropy(logits, targets))

    fit(
        model, loss, len(samples), TrainSettings(batch_size=4), torch_generator(1, "t"), arithmetic=arithmetic
    )


USES = {
    "fit": train,
    "predict": lambda model, samples, arithmetic: predict(model, samples.inputs, arithmetic),
    "exit_logits": lambda model, samples, arithmetic: exit_logits(model, samples.inputs, arithmetic),
    "evaluate": lambda model, samples, arithmetic: evaluate(model, samples, None, arithmetic),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_layers_compute_in_the_precision_asked_for(use):
    assert computed_in(FLOAT32, use) == {torch.float32}
    assert computed_in(BFLOAT16, use) == {torch.bfloat16}


@pytest.mark.parametrize("arithmetic", [BFLOAT16, HalfOnCpu()], ids=["bf16", "fp16"])
def test_losses_weights_and_answers_are_float32(arithmetic):
    model, samples, types = linear_network(0), random_samples(6), []

    def loss(logits):
        types.append(logits.dtype)
        return logits.square().mean()

    def batch_loss(indices):
        return mean_over_exits(model, samples.inputs[indices], loss)

    fit(model, batch_loss, 6, TrainSettings(), torch_generator(1, "t"), arithmetic=arithmetic)

    answers = [predict(model, samples.inputs, arithmetic), *exit_logits(model, samples.inputs, arithmetic)]
    tensors = [*model.state_dict().values(), *answers]
    assert {*types, *(tensor.dtype for tensor in tensors)} == {torch.float32}


def test_float32_is_torch_as_it_is():
    """The step of torch's own SGD, bit for bit, is `test_training`'s matter."""
    assert isinstance(FLOAT32.autocast(), nullcontext)
    assert FLOAT32.gradients() is BFLOAT16.gradients() is plain_gradients


# --- digits --------------------------------------------------------------------------------------


def accuracy_on_digits(arithmetic, device=CPU):
    """Train on all private digits for five epochs and return the accuracy on the server's."""
    settings = RunSettings.parse({"data.split": "iid"})
    train_part, test = (
        load_client_data(settings, 0, 1).train.to(device),
        load_server_test(settings).to(device),
    )
    model = build_model("cnn", test.input_shape, 10, seed=0).to(device)
    train_many = TrainSettings(epochs=5)

    def loss(indices):
        inputs, targets = train_part.inputs[indices], train_part.targets[indices]
        return mean_over_exits(model, inputs, lambda logits: F.cross_entropy(logits, targets))

    fit(model, loss, len(train_part), train_many, torch_generator(1, "digits"), arithmetic=arithmetic)
    return evaluate(model, test, None, arithmetic).accuracy


@pytest.fixture(scope="module")
def exact():
    """Return the accuracy in float32."""
    return accuracy_on_digits(FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", [BFLOAT16, HalfOnCpu()], ids=["bf16", "fp16"])
def test_digits_are_learned_nearly_as_well_as_in_float32(arithmetic, exact):
    assert exact > 0.9
    assert accuracy_on_digits(arithmetic) == pytest.approx(exact, abs=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_digits_are_learned_on_a_gpu_too(precision):
    exact = accuracy_on_digits(FLOAT32, GPU)
    assert accuracy_on_digits(Arithmetic(precision, GPU), GPU) == pytest.approx(exact, abs=0.02)


# --- scaled gradients ----------------------------------------------------------------------------


def weight(value=1.0):
    return torch.tensor([value], requires_grad=True)


OVERFLOWING = 1e35
"""As a gradient it is finite in float32; times the first scale it is not."""
JUST_OVERFLOWING = 1e34
"""Times half the first scale it is finite."""


def test_a_scale_changes_no_gradient_that_has_room():
    model, samples = linear_network(0), random_samples(6)
    parameters = list(model.parameters())

    def loss():
        return F.cross_entropy(model(samples.inputs.values), samples.targets)

    found, expected = ScaledGradients()(loss(), parameters), plain_gradients(loss(), parameters)

    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_scale_keeps_gradients_that_float16_rounds_to_nothing():
    parameter = weight()

    def loss():
        return (parameter.half() * 1).float().sum() * 1e-9

    (lost,), (kept,) = plain_gradients(loss(), [parameter]), ScaledGradients()(loss(), [parameter])

    assert lost.item() == 0
    assert kept.item() == pytest.approx(1e-9, rel=1e-2)


def test_a_gradient_that_overflows_halves_the_scale_and_gives_none():
    scaled, parameter = ScaledGradients(), weight()
    first = scaled.scale

    assert scaled((parameter * OVERFLOWING).sum(), [parameter]) is None

    assert scaled.scale == first / 2


@pytest.mark.slow
def test_the_scale_doubles_after_2000_good_steps_in_a_row():
    scaled, parameter = ScaledGradients(), weight()
    first = scaled.scale
    for _ in range(1999):
        scaled(parameter.sum(), [parameter])
    scaled((parameter * OVERFLOWING).sum(), [parameter])  # halves it, and the count starts anew
    for _ in range(1999):
        scaled(parameter.sum(), [parameter])
    assert scaled.scale == first / 2

    scaled(parameter.sum(), [parameter])

    assert scaled.scale == first


def test_gradients_that_are_never_finite_end_the_training():
    scaled, parameter = ScaledGradients(), weight()
    scaled.scale = 1.0
    with pytest.raises(TrainingError, match="gradients are not finite"):
        scaled((parameter * float("inf")).sum(), [parameter])


def test_each_training_starts_with_a_scale_of_its_own():
    arithmetic = Arithmetic("fp16", GPU)
    assert arithmetic.gradients() is not arithmetic.gradients()


def test_training_finds_gradients_that_overflow_again_at_half_the_scale():
    """No step is left out: a client with few samples may take but one in a round."""
    model, arithmetic = torch.nn.Linear(1, 1, bias=False), ScaledFloat32()
    before = model.weight.item()

    def loss(indices):
        return model(torch.ones(1, 1)).sum() * JUST_OVERFLOWING

    settings = TrainSettings(epochs=1, batch_size=2, learning_rate=1 / JUST_OVERFLOWING)
    fit(model, loss, 6, settings, torch_generator(1, "t"), arithmetic=arithmetic)

    assert model.weight.item() == pytest.approx(before - 3)
    assert arithmetic.scaled.scale == 2.0**15


def test_training_that_diverges_in_float16_ends():
    model = torch.nn.Linear(1, 1, bias=False)

    def loss(indices):
        return model(torch.ones(1, 1)).sum() * float("inf")

    with pytest.raises(TrainingError, match="gradients are not finite"):
        fit(model, loss, 2, TrainSettings(), torch_generator(1, "t"), arithmetic=ScaledFloat32())


def test_training_without_overflow_is_that_without_a_scale():
    plain, scaled, samples = linear_network(0), linear_network(0), random_samples(12)

    train(plain, samples, FLOAT32)
    train(scaled, samples, ScaledFloat32())

    assert_same_weights(scaled.state_dict(), plain.state_dict())
