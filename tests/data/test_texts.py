import json

import pytest
import torch

from data.texts import TextForm, Texts
from data.tokenisers import train_wordpiece
from protocol.settings import TextSettings

TEXTS = Texts(("good", "bad, sad", "naïve"))
ALL = torch.arange(3)


def form_of(texts=TEXTS, **settings):
    return texts.fit(torch.arange(len(texts)), TextSettings(**settings), "")


def test_texts_become_tokens_between_two_marks():
    tokens = TEXTS.inputs(torch.tensor([1, 0]), form_of())[torch.arange(2)]
    assert len(TEXTS) == 3
    assert tokens[:, 0].tolist() == [2, 2]  # [CLS]
    assert [row[row != 0][-1].item() for row in tokens] == [3, 3]  # [SEP]


def test_what_is_longer_than_allowed_is_left_out_and_still_ends_with_its_mark():
    long = Texts(("word " * 500,))
    tokens = long.inputs(torch.tensor([0]), form_of(long, length=8))[torch.tensor([0])]
    assert tokens.shape == (1, 8)
    assert tokens[0, -1] == 3


def test_an_empty_text_is_its_two_marks():
    texts = Texts(("", "   ", "a"))
    tokens = texts.inputs(torch.arange(3), form_of(texts))[torch.arange(2)]
    assert tokens.tolist() == [[2, 3], [2, 3]]


def test_the_shape_is_the_length_and_the_size_of_the_vocabulary():
    form = form_of(length=12, vocabulary=64)
    assert form.shape == (12, form.vocabulary)
    assert form.vocabulary <= 64
    assert TEXTS.inputs(ALL, form)[ALL].max() < form.vocabulary


def test_the_form_is_json_and_comes_back_from_it():
    form = form_of()
    again = TextForm.from_facts(json.loads(json.dumps(form.facts())))
    assert (again.shape, again.digest) == (form.shape, form.digest)
    assert torch.equal(TEXTS.inputs(ALL, again)[ALL], TEXTS.inputs(ALL, form)[ALL])


def test_the_digest_is_32_hexadecimal_digits_and_the_same_on_every_machine():
    assert TEXTS.digest(ALL) == "ad2d2b21c1a204fde11e4c3e7846c176"


@pytest.mark.parametrize("rows", [[1, 0, 2], [0, 1], [0, 1, 2, 2]])
def test_the_digest_changes_with_order_and_number(rows):
    assert TEXTS.digest(torch.tensor(rows)) != TEXTS.digest(ALL)


def test_the_digest_changes_with_where_one_text_ends():
    assert Texts(("ab", "c")).digest(ALL[:2]) != Texts(("a", "bc")).digest(ALL[:2])


def test_the_same_texts_with_another_tokeniser_or_length_have_another_digest():
    own = TEXTS.token_digest(ALL, form_of())
    other = TextForm(train_wordpiece(["other words"], 64), form_of().length)
    assert len({own, TEXTS.token_digest(ALL, other), TEXTS.token_digest(ALL, form_of(length=4))}) == 3
