import torch

from data.inputs import TensorInputs
from learning.distillation import distil, distillation_loss
from learning.training import predict
from tests.strategies.sides import linear_network, public_pool, tiny_settings
from tests.strategies.soft_labels.recorded import RECORDED


def test_distillation_loss_equals_the_official_code():
    case = RECORDED["kd_loss"]

    loss = distillation_loss(torch.tensor(case["logits"]), torch.tensor(case["labels"]))

    torch.testing.assert_close(loss.item(), case["loss"], atol=1e-6, rtol=0)


def test_distillation_loss_is_zero_where_the_network_agrees():
    labels = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])

    torch.testing.assert_close(distillation_loss(labels.log(), labels).item(), 0.0, atol=1e-7, rtol=0)


def test_distillation_loss_takes_labels_that_rule_a_class_out():
    logits = torch.tensor([[1.0, 2.0, 3.0]])

    loss = distillation_loss(logits, torch.tensor([[0.0, 0.0, 1.0]]))

    assert torch.equal(loss, -logits.log_softmax(dim=1)[0, 2])


def test_distillation_moves_the_network_towards_the_labels_of_the_samples_named():
    settings = tiny_settings(distillation__epochs=200, distillation__learning_rate=1.0)
    pool, network = public_pool(settings), linear_network(0)
    indices, labels = torch.tensor([6, 1]), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])

    distil(network, pool.inputs.take(indices), labels, settings, torch.Generator().manual_seed(0))

    torch.testing.assert_close(predict(network, pool.inputs.take(indices)), labels, atol=0.02, rtol=0)


def test_the_pool_is_read_a_batch_at_a_time(monkeypatch):
    """Images of a large pool do not fit into memory as float32."""
    settings = tiny_settings(distillation__batch_size=3, distillation__epochs=1)
    read, asked = TensorInputs.__getitem__, []
    monkeypatch.setattr(
        TensorInputs, "__getitem__", lambda inputs, rows: asked.append(len(rows)) or read(inputs, rows)
    )

    labels, generator = torch.full((7, 3), 1 / 3), torch.Generator().manual_seed(0)
    inputs = public_pool(settings).inputs.take(torch.arange(7))
    asked.clear()
    distil(linear_network(0), inputs, labels, settings, generator)

    assert asked == [3, 4]


def test_distillation_on_no_label_leaves_the_network_as_it_is():
    settings, network, before = tiny_settings(), linear_network(0), linear_network(0).state_dict()
    nothing = torch.zeros(0, dtype=torch.int64)

    distil(
        network,
        public_pool(settings).inputs.take(nothing),
        torch.zeros(0, 3),
        settings,
        torch.Generator(),
    )

    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
