import pytest
import torch
from torch import nn

from models.elastic.channels import axes_of
from models.elastic.cnn import CNN
from models.elastic.efficientnet import EFFICIENTNET_B4
from models.elastic.network import Shape
from models.elastic.norms import forget_statistics, recalibrate, track_statistics
from models.elastic.slicing import SliceMap
from tests.support.elastic import TINY_RESNET

IMAGE = (3, 16, 16)
SHAPE = Shape(0.5, (1, 3, 5, 6))


def images(count, seed=0, image=IMAGE):
    return torch.randn(count, *image, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TINY_RESNET.design.build(IMAGE, 10, SHAPE)


def norms(network):
    return {name: norm for name, norm in network.named_modules() if isinstance(norm, nn.BatchNorm2d)}


def statistics(network):
    return {name: (norm.running_mean, norm.running_var) for name, norm in norms(network).items()}


def batch_statistics(network, batch):
    """Return mean and unbiased variance of what comes to each norm in train mode, all exits on the way."""
    seen = {}

    def note(name):
        def hook(_norm, inputs):
            (features,) = inputs
            seen[name] = (features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3)))

        return hook

    hooks = [norm.register_forward_pre_hook(note(name)) for name, norm in norms(network).items()]
    with torch.no_grad():
        network.train().exits(batch)
    for hook in hooks:
        hook.remove()
    return seen


# --- forgotten ---------------------------------------------------------------------------------------


def test_forgotten_statistics_leave_only_parameters_in_the_state(network):
    forget_statistics(network)

    assert list(network.state_dict()) == [name for name, _ in network.named_parameters()]


def test_without_statistics_eval_mode_uses_those_of_the_batch(network):
    forget_statistics(network)
    batch = images(8)

    trained, evaluated = network.train().exits(batch), network.eval().exits(batch)

    assert trained[-1].std() > 0.1
    assert all(torch.equal(*logits) for logits in zip(trained, evaluated, strict=True))


def test_without_statistics_training_finds_none(network):
    forget_statistics(network)

    network.train().exits(images(8))

    assert all(norm.running_mean is None for norm in norms(network).values())


def test_tracked_statistics_are_those_of_a_new_network(network):
    new = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train().exits(images(8))
    forget_statistics(network)

    track_statistics(network)

    state = network.state_dict()
    assert state.keys() == new.keys()
    assert all(torch.equal(state[name], new[name]) for name in new)
    assert not any(buffer.requires_grad for buffer in network.buffers())


# --- found anew --------------------------------------------------------------------------------------


def test_statistics_become_those_of_the_inputs_at_every_norm_early_heads_included(network):
    inputs = images(20)
    expected = batch_statistics(network, inputs)
    forget_statistics(network)

    recalibrate(network, [inputs])

    assert any(name.startswith("heads.1.") for name in expected)
    torch.testing.assert_close(statistics(network), expected)


def test_eval_mode_answers_the_inputs_as_train_mode_does_up_to_the_variances_bias(network):
    inputs = images(64)
    recalibrate(network, [inputs])

    evaluated, trained = network.eval().exits(inputs), network.train().exits(inputs)

    for ours, theirs in zip(evaluated, trained, strict=True):
        assert (ours - theirs).abs().max() < 0.01 * theirs.std()


@pytest.mark.parametrize(("count", "number"), [(20, 2), (41, 3)])
def test_statistics_of_several_batches_are_their_mean(count, number):
    image = (1, 8, 8)
    network = CNN.build(image, 10, Shape(0.1, (2,)))
    inputs = images(count, image=image) * torch.linspace(1, 5, count).reshape(-1, 1, 1, 1)
    batches = [batch_statistics(network, batch) for batch in inputs.tensor_split(number)]

    recalibrate(network, inputs.tensor_split(number))

    for name, (mean, variance) in statistics(network).items():
        torch.testing.assert_close(mean, torch.stack([batch[name][0] for batch in batches]).mean(0))
        torch.testing.assert_close(variance, torch.stack([batch[name][1] for batch in batches]).mean(0))


def test_finding_statistics_anew_forgets_the_earlier_ones(network):
    recalibrate(network, [images(20, seed=1) + 3])
    recalibrate(network, [images(20, seed=2)])
    twice = statistics(network)

    forget_statistics(network)
    recalibrate(network, [images(20, seed=2)])

    torch.testing.assert_close(twice, statistics(network), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_momentum_and_mode_are_as_before(network, training):
    network.train(training)
    for number, norm in enumerate(norms(network).values(), start=1):
        norm.momentum = 1 / number

    recalibrate(network, [images(4)])

    assert [norm.momentum for norm in norms(network).values()] == [
        1 / n for n in range(1, 1 + len(norms(network)))
    ]
    assert all(module.training is training for module in network.modules())


def test_momentum_and_mode_are_as_before_when_the_inputs_do_not_fit(network):
    network.eval()

    with pytest.raises(RuntimeError, match="channels"):
        recalibrate(network, [torch.zeros(4, 1, 16, 16)])

    assert all(norm.momentum == 0.1 for norm in norms(network).values())
    assert not any(module.training for module in network.modules())


def test_weights_are_neither_changed_nor_given_gradients(network):
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    recalibrate(network, [images(4)])

    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert not any(buffer.requires_grad for buffer in network.buffers())


def test_no_gradients_are_followed(network):
    followed = []
    network.stem.register_forward_hook(
        lambda _stem, _inputs, features: followed.append(features.requires_grad)
    )

    recalibrate(network, [images(4)])

    assert followed == [False]


def test_batches_are_taken_one_at_a_time(network):
    """More inputs than fit into memory calibrate a network, too."""
    answered = []
    network.stem.register_forward_hook(lambda *_: answered.append(True))
    taken = []

    def batches():
        for seed in range(3):
            taken.append(len(answered))
            yield images(4, seed)

    recalibrate(network, batches())

    assert taken == [0, 1, 2]


def test_two_inputs_are_enough(network):
    recalibrate(network, [images(2)])

    assert all(var.isfinite().all() for _, var in statistics(network).values())


@pytest.mark.parametrize(("batches", "count"), [([], 0), ([images(0)], 0), ([images(1)], 1)])
def test_fewer_than_two_inputs_are_refused_and_change_nothing(network, batches, count):
    network.train().exits(images(8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    with pytest.raises(ValueError, match=f"{count} inputs.*at least two"):
        recalibrate(network, batches)

    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_level_has_other_statistics_than_its_part_of_the_whole_has(network):
    """The narrower network hears fewer channels, so what it makes of the same inputs is no slice."""
    part = TINY_RESNET.design.build(IMAGE, 10, Shape(0.25, (1, 3, 5, 6)))
    where = SliceMap(axes_of(network), axes_of(part))
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    forget_statistics(part)
    part.load_state_dict(where.extract(parameters))

    for each in (network, part):
        recalibrate(each, [images(20)])

    whole = statistics(network)
    for name, (mean, variance) in statistics(part).items():
        if name.startswith("stem"):
            continue  # sees the same images; its sums differ by the scaler alone
        assert not torch.allclose(mean, whole[name][0][: len(mean)], rtol=0.05), name
        assert not torch.allclose(variance, whole[name][1][: len(mean)], rtol=0.05), name


def test_statistics_are_of_the_network_as_it_answers_with_nothing_dropped_at_random():
    image = (3, 32, 32)
    torch.manual_seed(0)
    network = EFFICIENTNET_B4.build(image, 10, Shape(0.1, (3,)))
    recalibrate(network, [images(8, image=image)])
    first = statistics(network)

    recalibrate(network, [images(8, image=image)])

    torch.testing.assert_close(first, statistics(network), rtol=0, atol=0)
