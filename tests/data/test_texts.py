import json

import pytest
import torch

from data.texts import TextForm, Texts

TEXTS = Texts(("good", "bad, sad", "naïve"))
ALL = torch.arange(3)


def test_texts_are_taken_as_they_are():
    assert TEXTS.inputs(torch.tensor([2, 0])).texts == ("naïve", "good")
    assert len(TEXTS) == 3


def test_the_form_is_json():
    assert json.loads(json.dumps(TextForm().facts())) == {"shape": []}


def test_the_digest_is_32_hexadecimal_digits_and_the_same_on_every_machine():
    assert TEXTS.digest(ALL) == "ad2d2b21c1a204fde11e4c3e7846c176"


@pytest.mark.parametrize("rows", [[1, 0, 2], [0, 1], [0, 1, 2, 2]])
def test_the_digest_changes_with_order_and_number(rows):
    assert TEXTS.digest(torch.tensor(rows)) != TEXTS.digest(ALL)


def test_the_digest_changes_with_where_one_text_ends():
    assert Texts(("ab", "c")).digest(ALL[:2]) != Texts(("a", "bc")).digest(ALL[:2])
