"""BERT with exits: what is cut, what a checkpoint brings, what padding may not change."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from models import build_elastic, build_model, elastic_design
from models.elastic import ElasticDesign, Shape, SliceMap, axes_of
from models.elastic.bert import BERT_TINY, BertSize, bert_design, build_bert, preset
from models.elastic.cost import cost_of, parameters_of
from protocol.errors import SettingsError
from protocol.settings import RunSettings

LENGTH, VOCABULARY, CLASSES = 12, 40, 3
TEXTS = (LENGTH, VOCABULARY)
SMALL = BertSize(layers=4, hidden=24, heads=2, intermediate=48)
DESIGN = ElasticDesign(partial(build_bert, SMALL.configuration), 4, preset(4), reads="texts")

RECORDED = [
    (300, 1224, 13_796_200),
    (420, 1680, 26_126_528),
    (576, 2304, 54_781_068),
    (768, 3072, 111_266_320),
]
"""Hidden and intermediate size and parameters of ScaleFL's own BERT-base on four classes, by level."""


def tokens(*lengths):
    generator = torch.Generator().manual_seed(1)
    batch = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
    return batch


def part_of(whole, shape):
    """Return a submodel with the weights that it has in the whole network."""
    part = build_elastic(DESIGN, TEXTS, CLASSES, 1, shape)
    where = SliceMap(axes_of(whole), axes_of(part))
    part.load_state_dict(where.extract(whole.state_dict()), strict=True)
    return part.eval()


def whole_network(seed=0):
    return build_elastic(DESIGN, TEXTS, CLASSES, seed, DESIGN.preset[-1]).eval()


# --- depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@torch.no_grad()
def test_a_truncated_network_answers_exactly_as_the_whole_ones_exits(level):
    whole, batch = whole_network(), tokens(12, 5, 2)
    part = part_of(whole, Shape(1.0, DESIGN.preset[-1].exits[:level]))
    for own, theirs in zip(part.exits(batch), whole.exits(batch), strict=False):
        assert torch.equal(own, theirs)
    assert torch.equal(part(batch), whole.exits(batch)[level - 1])
    assert len(part.bert.encoder.layer) == DESIGN.preset[level - 1].depth


# --- width ---------------------------------------------------------------------------------------


def test_of_each_head_the_leading_part_is_kept():
    whole = whole_network()
    part = part_of(whole, Shape(0.5, (4,)))
    head, kept = 12, [*range(6), *range(12, 18)]
    query = whole.bert.encoder.layer[1].attention.self.query.weight
    assert torch.equal(part.bert.encoder.layer[1].attention.self.query.weight, query[kept][:, kept])
    words = whole.bert.embeddings.word_embeddings.weight
    assert torch.equal(part.bert.embeddings.word_embeddings.weight, words[:, kept])
    wide = [*range(12), *range(24, 36)]
    narrowed = whole.bert.encoder.layer[0].intermediate.dense.weight[wide][:, kept]
    assert torch.equal(part.bert.encoder.layer[0].intermediate.dense.weight, narrowed)
    assert part.bert.config.num_attention_heads == whole.bert.config.num_attention_heads
    assert part.bert.encoder.layer[0].attention.self.attention_head_size == head // 2


@pytest.mark.parametrize("shape", DESIGN.preset, ids=str)
def test_every_level_is_a_part_of_the_whole_and_learns(shape):
    part = part_of(whole_network(), shape).train()
    sum(z.logsumexp(dim=1).sum() for z in part.exits(tokens(12, 3))).backward()
    assert all(parameter.grad is not None for parameter in part.parameters())


@pytest.mark.parametrize(("level", "recorded"), list(enumerate(RECORDED)), ids=str)
def test_bert_base_has_the_recorded_sizes_and_parameters(level, recorded):
    design, texts = bert_design(), (512, 30522)
    shape = design.preset[level]
    network = design.on_meta(texts, 4, shape)
    hidden, intermediate, parameters = recorded
    assert network.bert.config.hidden_size == hidden
    assert network.bert.config.intermediate_size == intermediate
    assert parameters_of(design, texts, 4, shape) == parameters
    assert shape.exits[-1] == (4, 6, 9, 12)[level]


@pytest.mark.slow
def test_deeper_exits_cost_more():
    macs = cost_of(BERT_TINY, (32, 2000), CLASSES, BERT_TINY.preset[-1]).macs
    assert list(macs) == sorted(set(macs))


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6, 12, 24])
def test_levels_fit_any_depth(layers):
    shapes = preset(layers)
    assert shapes[-1].depth == layers
    assert shapes[-1].width == 1
    assert len(shapes) == min(layers, 4)


# --- padding -------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_changes_no_answer():
    whole, batch = whole_network(), tokens(12, 4)
    for padded, alone in zip(whole.exits(batch), whole.exits(batch[1:, :4]), strict=True):
        torch.testing.assert_close(padded[1:], alone)


def test_the_seed_alone_makes_the_weights():
    first, again, other = (whole_network(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_small_network_begins_with_larger_weights_than_berts_own():
    small = build_elastic(BERT_TINY, TEXTS, CLASSES, 0, BERT_TINY.preset[-1])
    for network, deviation in ((small, 0.08), (whole_network(), 0.02)):
        query = network.bert.encoder.layer[0].attention.self.query.weight
        assert query.std().item() == pytest.approx(deviation, rel=0.1)


# --- a checkpoint --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the folder of a small BERT as transformers saves it, and the model."""
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(5)
    model = BertModel(SMALL.configuration(LENGTH, VOCABULARY)).eval()
    model.save_pretrained(folder)
    return folder, model


def pretrained_design(folder):
    return elastic_design("elastic-bert", RunSettings(model="elastic-bert", pretrained=str(folder)))


@torch.no_grad()
def test_a_checkpoint_is_read_as_transformers_does(checkpoint):
    folder, theirs = checkpoint
    design, batch = pretrained_design(folder), tokens(12, 5)
    ours = build_elastic(design, TEXTS, CLASSES, 0, None).eval()
    expected = theirs(batch, attention_mask=(batch != 0).long())
    assert torch.equal(ours.bert(batch, attention_mask=(batch != 0).long())[0], expected.last_hidden_state)
    *_, head = ours.heads.values()
    pooled = torch.tanh(head.dense(expected.last_hidden_state[:, 0]))
    assert torch.equal(pooled, expected.pooler_output)


def test_its_weights_are_cut_as_submodels_are(checkpoint):
    folder, theirs = checkpoint
    design = pretrained_design(folder)
    part = build_elastic(design, TEXTS, CLASSES, 0, design.preset[0])
    whole = build_elastic(design, TEXTS, CLASSES, 0, design.preset[-1])
    where = SliceMap(axes_of(whole), axes_of(part))
    cut = where.extract(whole.state_dict())
    for name, tensor in part.state_dict().items():
        if name.startswith("bert."):
            assert torch.equal(tensor, cut[name]), name
    assert len(part.bert.encoder.layer) < len(theirs.encoder.layer)


def test_a_checkpoint_is_not_read_where_other_weights_take_the_place_of_its_own(checkpoint):
    def unread():
        raise AssertionError("the checkpoint was read")

    folder, _ = checkpoint
    design = replace(pretrained_design(folder), initial=unread)
    build_elastic(design, TEXTS, CLASSES, 0, design.preset[0], pretrained=False)
    with pytest.raises(AssertionError, match="the checkpoint was read"):
        build_elastic(design, TEXTS, CLASSES, 0, design.preset[0])


def test_another_family_is_refused_by_name(tmp_path):
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=f'^pretrained = "{tmp_path}": is of the family "gpt2"'):
        pretrained_design(tmp_path)


def test_a_place_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(
        SettingsError, match=f'^pretrained = "{tmp_path}": no configuration can be read there'
    ):
        pretrained_design(tmp_path)


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    SMALL.configuration(LENGTH, VOCABULARY).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=f'^pretrained = "{tmp_path}": no weights can be read there'):
        build_elastic(pretrained_design(tmp_path), TEXTS, CLASSES, 0, None)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((LENGTH + 1, VOCABULARY), "text.length = 13: .* has 12 positions"),
        ((LENGTH, 41), "41 pieces, .* knows 40"),
    ],
)
def test_texts_that_do_not_fit_a_checkpoint_are_refused(checkpoint, texts, message):
    with pytest.raises(SettingsError, match=message):
        build_elastic(pretrained_design(checkpoint[0]), texts, CLASSES, 0, None)


def test_images_are_refused():
    with pytest.raises(SettingsError, match="reads texts, but the data are images"):
        build_model("elastic-bert-tiny", (1, 8, 8), CLASSES, 0)
