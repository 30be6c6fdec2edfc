import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from strategies.submodels.loss import (
    balanced_loss,
    exit_weights,
    masked_loss,
    mutual_loss,
    official_loss,
    self_distillation_loss,
)

RECORDED = json.loads((Path(__file__).parent / "loss.json").read_text())
TARGETS = torch.tensor(RECORDED["targets"])
CLASSES = 4
TEMPERATURE = 3.0


def exits(count=4):
    """Return the first exits' logits, in float64."""
    return [
        torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in RECORDED["logits"][:count]
    ]


def gradient_norms(loss, logits):
    return [float(gradient.norm()) for gradient in torch.autograd.grad(loss, logits, materialize_grads=True)]


# --- ScaleFL -------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDED["paper"])
def test_the_loss_is_equation_5(record):
    logits = exits(record["n_exits"])

    loss = self_distillation_loss(logits, TARGETS, record["distillation"], record["temperature"])

    assert loss.item() == pytest.approx(record["loss"], abs=1e-9)
    assert gradient_norms(loss, logits) == pytest.approx(record["grad_norms"], abs=1e-9)


@pytest.mark.parametrize("record", RECORDED["official"])
def test_the_official_loss_is_what_the_released_code_computes(record):
    logits = exits(record["n_exits"])

    weight = record["distillation"] if record["started"] else 0.0
    loss = official_loss(logits, TARGETS, weight, record["temperature"])

    assert loss.item() == pytest.approx(record["loss"], abs=1e-9)
    assert gradient_norms(loss, logits) == pytest.approx(record["grad_norms"], abs=1e-9)


def last_exit_gradient(loss, distillation):
    logits = exits()
    return torch.autograd.grad(loss(logits, TARGETS, distillation, TEMPERATURE), logits[-1])[0]


def test_the_last_exit_learns_nothing_from_its_pupils():
    alone, teaching = (last_exit_gradient(self_distillation_loss, weight) for weight in (0.0, 5.0))
    assert torch.equal(teaching, alone)


def test_in_the_official_loss_the_last_exit_learns_from_its_pupils():
    alone, teaching = (last_exit_gradient(official_loss, weight) for weight in (0.0, 5.0))
    assert not torch.allclose(teaching, alone)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("linear", [0.05, 0.1, 0.15, 0.2]),
        ("equal", [0.125, 0.125, 0.125, 0.125]),
        ("full", [1, 1, 1, 1]),
    ],
)
def test_the_exits_losses_are_weighted_as_asked(kind, weights):
    logits = exits()

    loss = self_distillation_loss(logits, TARGETS, 0.0, TEMPERATURE, weights=kind)

    losses = [F.cross_entropy(z, TARGETS).item() for z in logits]
    by_hand = sum(weight * each for weight, each in zip(weights, losses, strict=True))
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_linear_and_equal_exit_weights_sum_to_a_half(count):
    assert sum(exit_weights(count, "linear")) == pytest.approx(0.5)
    assert sum(exit_weights(count, "equal")) == pytest.approx(0.5)


# --- DepthFL -------------------------------------------------------------------------------------


def divergence(teacher, pupil, temperature):
    """Return KL(teacher ‖ pupil), the mean over samples, with plain numbers."""
    total = 0.0
    for of_teacher, of_pupil in zip(teacher.tolist(), pupil.tolist(), strict=True):
        p, q = (
            [
                math.exp(value / temperature) / sum(math.exp(other / temperature) for other in row)
                for value in row
            ]
            for row in (of_teacher, of_pupil)
        )
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(teacher)


def test_two_exits_learn_from_each_other():
    first, second = exits(2)

    loss = mutual_loss([first, second], TARGETS, 0.1, TEMPERATURE)

    classes = F.cross_entropy(first, TARGETS).item() + F.cross_entropy(second, TARGETS).item()
    mutual = divergence(second, first, TEMPERATURE) + divergence(first, second, TEMPERATURE)
    assert loss.item() == pytest.approx(classes + 0.1 * 9 * mutual, abs=1e-9)


def test_an_exit_learns_from_the_mean_of_all_others():
    logits = exits(3)

    loss = mutual_loss(logits, TARGETS, 1.0, 1.0)

    classes = sum(F.cross_entropy(z, TARGETS).item() for z in logits)
    pairs = [divergence(teacher, z, 1.0) for z in logits for teacher in logits if teacher is not z]
    assert loss.item() == pytest.approx(classes + sum(pairs) / 2, abs=1e-9)


def test_teachers_of_mutual_learning_get_no_gradient():
    """An exit's gradient is that of its own terms alone."""
    first, second = exits(2)
    whole = torch.autograd.grad(mutual_loss([first, second], TARGETS, 0.1, TEMPERATURE), first)[0]

    own = F.cross_entropy(first, TARGETS) + 0.1 * TEMPERATURE**2 * F.kl_div(
        F.log_softmax(first / TEMPERATURE, dim=1),
        F.softmax(second.detach() / TEMPERATURE, dim=1),
        reduction="batchmean",
    )
    torch.testing.assert_close(whole, torch.autograd.grad(own, first)[0])


def test_a_single_exit_learns_from_the_classes_alone():
    (only,) = exits(1)
    assert mutual_loss([only], TARGETS, 1.0, 1.0).item() == F.cross_entropy(only, TARGETS).item()


# --- shares of classes ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [masked_loss, balanced_loss])
def test_a_class_the_client_lacks_gets_no_gradient(make):
    (logits,) = exits(1)
    targets = torch.tensor([0, 1, 3, 3, 1])  # none of class 2

    (gradient,) = torch.autograd.grad(
        make(torch.bincount(targets, minlength=CLASSES))(logits, targets), logits
    )

    assert gradient[:, 2].eq(0).all()
    assert gradient[:, [0, 1, 3]].ne(0).all()


def test_masking_is_cross_entropy_over_the_classes_there_are():
    (logits,) = exits(1)

    loss = masked_loss(torch.tensor([3, 1, 0, 9]))(logits, torch.tensor([0, 1, 3, 3, 1]))

    kept = logits[:, [0, 1, 3]]
    assert loss.item() == pytest.approx(
        F.cross_entropy(kept, torch.tensor([0, 1, 2, 2, 1])).item(), abs=1e-12
    )


@pytest.mark.parametrize("make", [masked_loss, balanced_loss])
def test_with_as_many_samples_of_each_class_it_is_plain_cross_entropy(make):
    (logits,) = exits(1)
    loss = make(torch.tensor([5, 5, 5, 5]))(logits, TARGETS)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, TARGETS).item(), abs=1e-6)


def test_balancing_adds_the_logarithm_of_each_share():
    (logits,) = exits(1)

    loss = balanced_loss(torch.tensor([1, 2, 4, 1]))(logits, TARGETS)

    shares = torch.tensor([1, 2, 4, 1], dtype=torch.float64) / 8
    weighted = logits.exp() * shares
    by_hand = -(weighted[range(5), TARGETS] / weighted.sum(dim=1)).log().mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-6)
