"""A frozen decoder in 4 bits, for a checkpoint of every family.

These need bitsandbytes, an option of the project: `uv pip install bitsandbytes` first. They need no GPU, as
bitsandbytes computes on a CPU until a network has answered once.
"""

import pytest
import torch

from models import build_elastic, elastic_design, learned_state, load_learned_state
from models.elastic import Shape
from models.vlm import tiny
from models.vlm.base import checkpoint_of, decoder_of
from tests.support.vlm import CLASSES, IMAGES, vlm_settings

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch):
    monkeypatch.setattr("models.vlm.base.has_gpu", lambda: True)
    # Or it packs the weights that it answers with, and no gradient passes them any more.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def images():
    return torch.rand(3, *IMAGES, generator=torch.Generator().manual_seed(1))


def design_of(folder, **changes):
    return elastic_design(
        "elastic-vlm", vlm_settings(pretrained=str(folder), vlm__quantisation="4bit", **changes)
    )


def build(design, shape=None):
    return build_elastic(design, IMAGES, CLASSES, 0, shape or design.preset[-1])


def linear_layers(network):
    return {name: type(m) for name, m in network.named_modules() if isinstance(m, torch.nn.Linear)}


def test_the_decoders_layers_alone_are_held_in_four_bits(checkpoint):
    network = build(design_of(checkpoint))
    family = checkpoint_of(str(checkpoint)).family
    held = {name for name, kind in linear_layers(network).items() if kind is bitsandbytes.nn.Linear4bit}
    frozen = {
        f"base.model.{family.decoder}.{name}"
        for name in linear_layers(decoder_of(network.base, family))
        if "lora_" not in name
    }
    assert held == frozen


@pytest.mark.parametrize("merge", ["count", "stack"])
def test_what_learns_gets_gradients_through_them(checkpoint, images, merge):
    network = build(design_of(checkpoint, strategy="scalefl", lora__merge=merge)).train()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    loss = sum(logits.logsumexp(1).mean() for logits in network.exits(images)) + network.own_loss()
    loss.backward()
    learns = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in learns.values())
    assert all(p.grad is not None for p in learns.values())
    adapters = [p for name, p in learns.items() if ".lora_" in name]
    assert all(p.grad.abs().max() > 0 for p in adapters)


@torch.no_grad()
def test_a_truncated_network_answers_exactly_as_the_whole_ones_exits(checkpoint, images):
    design = design_of(checkpoint)
    whole = build(design)
    state, exits = learned_state(whole), design.preset[-1].exits
    expected = whole.eval().exits(images)
    for depth in range(1, len(exits) + 1):
        part = build(design, Shape(1.0, exits[:depth]))
        load_learned_state(part, {name: state[name] for name in learned_state(part)})
        for ours, theirs in zip(part.eval().exits(images), expected, strict=False):
            assert torch.equal(ours, theirs)


@torch.no_grad()
def test_four_bits_answer_nearly_as_thirty_two(tmp_path, images):
    tiny.write(tmp_path)
    exact = elastic_design("elastic-vlm", vlm_settings(pretrained=str(tmp_path)))
    expected = build(exact).eval().exits(images)[0]
    found = build(design_of(tmp_path)).eval().exits(images)[0]
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.5 * expected.norm()
