"""What holds for a checkpoint of every family, read from a folder as a real one is."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from models import build_elastic, elastic_design, learned_state, load_learned_state
from models.elastic import Shape, axes_of, cost_of
from models.elastic.cost import parameters_of
from models.vlm.base import checkpoint_of, decoder_of
from tests.support.vlm import CLASSES, DEPTH, IMAGES, vlm_settings


@pytest.fixture
def design(checkpoint):
    return elastic_design("elastic-vlm", vlm_settings(pretrained=str(checkpoint)))


@pytest.fixture
def images():
    return torch.rand(3, *IMAGES, generator=torch.Generator().manual_seed(1))


def trained(design, seed=0):
    """Return the whole network, its adapters no longer without effect."""
    network = build_elastic(design, IMAGES, CLASSES, seed, design.preset[-1])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=generator)
    return network


@torch.no_grad()
def answers(network, images):
    return network.eval().exits(images)


@pytest.mark.slow
def test_a_truncated_network_answers_exactly_as_the_whole_ones_exits(design, images):
    whole = trained(design)
    state, exits = learned_state(whole), design.preset[-1].exits
    expected = answers(whole, images)
    assert exits == tuple(range(1, DEPTH + 1))
    assert all(not torch.equal(a, b) for a, b in pairwise(expected))

    for depth in exits:
        part = build_elastic(design, IMAGES, CLASSES, 5, Shape(1.0, exits[:depth]))
        load_learned_state(part, {name: state[name] for name in learned_state(part)})
        assert len(decoder_of(part.base, checkpoint_of(design.build.source.place).family).layers) == depth
        for ours, theirs in zip(answers(part, images), expected, strict=False):
            assert torch.equal(ours, theirs)


def test_the_last_exit_answers_as_the_model_of_transformers_does(design, checkpoint, images):
    """With adapters that do nothing yet, and the final norm in the last exit."""
    from transformers import AutoModelForImageTextToText

    network = build_elastic(design, IMAGES, CLASSES, 0, Shape(1.0, (DEPTH,)))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    question = network._question
    tokens = question.tokens.expand(len(images), -1)
    with torch.no_grad():
        logits = model(input_ids=tokens, **network._read(images, question)).logits[:, -1]
    torch.testing.assert_close(answers(network, images)[0], logits[:, question.answers])


def test_adapters_exit_norms_and_projector_alone_learn_and_travel(design):
    network = build_elastic(design, IMAGES, CLASSES, 0, design.preset[1])
    state = learned_state(network)
    assert state.keys() == axes_of(network).keys()
    projector = {name for name in state if ".".join(["base.model", _projector(design)]) in name}
    adapters = {name for name in state if ".lora_" in name}
    norms = {name for name in state if name.startswith("norms.")}
    assert projector
    assert state.keys() == projector | adapters | norms
    assert norms == {"norms.1.weight", "norms.2.weight"}
    assert len(adapters) == 2 * 2 * 2  # two layers, q and v, A and B
    assert all(state[name].dtype == torch.float32 for name in state)
    assert all(_family(design).decoder in name for name in adapters)


def test_gradients_reach_what_learns_and_nothing_else(design, images):
    network = trained(design).train()
    loss = sum(F.cross_entropy(z, torch.tensor([0, 1, 2])) for z in network.exits(images))
    (loss + network.own_loss()).backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == learned_state(network).keys()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_levels_share_the_frozen_base_and_training_leaves_it_alone(design, images):
    small, large = (build_elastic(design, IMAGES, CLASSES, 0, design.preset[i]) for i in (0, 3))
    frozen = {name: p for name, p in large.named_parameters() if not p.requires_grad}
    before = {name: tensor.clone() for name, tensor in frozen.items()}
    # A deeper base is read anew, so the small level is built again to share it.
    small = build_elastic(design, IMAGES, CLASSES, 0, design.preset[0]).train()
    shared = [(n, p) for n, p in small.named_parameters() if not p.requires_grad]
    assert shared
    assert all(frozen[name] is parameter for name, parameter in shared)
    own = [p for p in small.parameters() if p.requires_grad]
    assert not {id(p) for p in own} & {id(p) for p in large.parameters()}

    optimizer = torch.optim.SGD(own, lr=0.1)
    F.cross_entropy(small.exits(images)[0], torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    assert all(torch.equal(frozen[name], tensor) for name, tensor in before.items())


def test_a_node_of_a_small_level_never_reads_the_deep_layers(design):
    from models.vlm import base

    base._loaded.clear()
    build_elastic(design, IMAGES, CLASSES, 0, design.preset[0])
    (held,) = base._loaded.values()
    assert len(decoder_of(held, _family(design)).layers) == 1


@pytest.mark.slow
def test_costs_ascend_with_the_level_and_with_the_exits(design):
    parameters = [parameters_of(design, IMAGES, CLASSES, shape) for shape in design.preset]
    assert sorted(set(parameters)) == parameters
    for shape, count in zip(design.preset, parameters, strict=True):
        network = build_elastic(design, IMAGES, CLASSES, 0, shape)
        assert count == sum(tensor.numel() for tensor in learned_state(network).values())
    smallest, largest = (
        cost_of(design, IMAGES, CLASSES, shape).macs for shape in design.preset[:: DEPTH - 1]
    )
    assert 0 < smallest[0] <= largest[0]
    assert sorted(set(largest)) == list(largest)


def test_it_describes_an_image_in_words_and_is_afterwards_as_before(design, images):
    network = trained(design)
    before = answers(network, images)
    texts = network.describe(images[:2], "Describe the image.", most=3)
    assert len(texts) == 2
    assert all(isinstance(text, str) for text in texts)
    assert all(torch.equal(a, b) for a, b in zip(before, answers(network, images), strict=True))


def test_a_grey_image_is_read_as_a_colour_one_of_three_equal_channels(design, images):
    grey = trained(design)
    colour = build_elastic(design, (3, *IMAGES[1:]), CLASSES, 0, design.preset[-1])
    load_learned_state(colour, learned_state(grey))
    three = answers(colour, images.expand(-1, 3, -1, -1))
    assert all(torch.equal(a, b) for a, b in zip(answers(grey, images), three, strict=True))


def _family(design):
    return checkpoint_of(design.build.source.place).family


def _projector(design):
    return _family(design).projector
