import torch

from learning.local import loss_of_batch
from learning.optimizers import optimizer_maker
from learning.training import fit
from tests.strategies.sides import assert_same_weights, client_side, linear_network, tiny_settings


def trained(folder, round=1, name="ada", **changes):
    model = linear_network(0)
    client_side(tiny_settings(**changes), name, folder).train(model, round)
    return model.state_dict()


def test_local_training_lowers_the_loss_on_the_clients_own_samples(tmp_path):
    client = client_side(tiny_settings(train__epochs=30), "ada", tmp_path)
    model = linear_network(0)
    loss = torch.nn.CrossEntropyLoss()
    inputs, targets = client.data.train.inputs.values, client.data.train.targets
    before = loss(model(inputs), targets)

    client.train(model, round=1)

    assert loss(model(inputs), targets) < before


def test_local_training_takes_its_settings_from_the_table_train(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("learning.local.fit", lambda *values: calls.append(values[2:4]) or fit(*values))
    monkeypatch.setattr(
        "learning.local.optimizer_maker",
        lambda name, options, settings: calls.append(options) or optimizer_maker(name, options, settings),
    )

    trained(tmp_path, train__momentum=0.5, train__weight_decay=0.25, train__epochs=2)

    options, (samples, table) = calls
    assert (samples, table.epochs) == (9, 2)
    assert (options.momentum, options.weight_decay) == (0.5, 0.25)


def test_the_learning_rate_is_that_of_the_round(tmp_path):
    schedule = {"train__learning_rate": 0.2, "train__milestones": "4", "train__decay": 0.5}

    late = trained(tmp_path, round=5, **schedule)

    assert_same_weights(late, trained(tmp_path, round=5, train__learning_rate=0.1))


def test_local_training_can_be_repeated(tmp_path):
    assert_same_weights(trained(tmp_path), trained(tmp_path))


def test_rounds_and_clients_draw_apart(tmp_path):
    reference = trained(tmp_path)["1.weight"]

    assert not torch.equal(trained(tmp_path, round=2)["1.weight"], reference)
    assert not torch.equal(trained(tmp_path, seed=1)["1.weight"], reference)


def test_a_step_done_again_for_lack_of_memory_is_of_the_same_augmented_batch(tmp_path):
    """Whole batches have 4 samples; where 2 fit, each is drawn once all the same."""
    client = client_side(tiny_settings(train__augmentation="shift"), "ada", tmp_path)
    whole, short = linear_network(0), linear_network(0)

    def loss_in_little_memory(model, inputs, targets):
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss_of_batch(client.settings)(model, inputs, targets)

    client.train(whole, 1)
    client.train(short, 1, loss_in_little_memory)

    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(short.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)


def test_augmentation_changes_what_is_learned_from(tmp_path):
    assert not torch.equal(
        trained(tmp_path, train__augmentation="shift")["1.weight"], trained(tmp_path)["1.weight"]
    )
