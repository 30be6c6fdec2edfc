import itertools

import pandas as pd
import pytest
import torch

from data.forms import digest_of, fit_form, inputs_of
from data.images import in_memory
from data.sources import Source
from data.tables import Table
from data.texts import Texts
from protocol.errors import DataError
from protocol.settings import DataSettings, TextSettings

ALL = torch.arange(3)
PIXELS = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
CONTENTS = {
    "images": in_memory(PIXELS, 255),
    "a table": Table(pd.DataFrame({"age": [1, 2, 6]})),
    "texts": Texts(("a", "b", "c")),
}


def source(content, name="/x"):
    return Source(name, content, None, None)


def form_of(content, **settings):
    return fit_form(source(content), ALL, DataSettings(**{"source": "/x", **settings}))


# --- normalisation -------------------------------------------------------------------------------


def test_images_are_normalised_by_the_pool():
    form = form_of(CONTENTS["images"])
    assert form.mean == pytest.approx((0.4,))
    assert form.deviation == pytest.approx((0.432049,))


@pytest.mark.parametrize("settings", [{"normalisation": "none"}, {"source": "digits"}])
def test_digits_and_images_that_shall_not_be_normalised_go_from_0_to_1(settings):
    content = CONTENTS["images"]
    inputs = inputs_of(source(content), ALL, form_of(content, **settings))
    assert torch.equal(inputs[ALL].flatten(), torch.tensor([0, 51, 255]) / 255)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_the_form_found_on_some_rows_makes_inputs_of_others(content):
    form = form_of(content)
    inputs = inputs_of(source(content), torch.tensor([2, 0]), form)
    assert len(inputs) == 2
    assert inputs.shape == form.shape


def test_texts_are_fingerprinted_with_what_they_become():
    texts, short = CONTENTS["texts"], TextSettings(length=4)
    forms = [fit_form(source(texts), ALL, DataSettings(), text) for text in (TextSettings(), short)]
    assert digest_of(source(texts), ALL, forms[0]) != texts.digest(ALL)
    images = CONTENTS["images"]
    assert digest_of(source(images), ALL, form_of(images)) == images.digest(ALL)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "pool"), list(itertools.permutations(CONTENTS, 2)))
def test_data_of_another_kind_than_the_pool_are_refused(data, pool):
    expected = f"/x holds {data}, the public pool {pool}: both must be of the same kind"
    with pytest.raises(DataError, match=expected):
        inputs_of(source(CONTENTS[data]), ALL, form_of(CONTENTS[pool]))


def test_images_of_another_shape_than_the_pools_are_refused():
    other = in_memory(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), 255)
    with pytest.raises(DataError, match=r"^/x has images of \(3, 2, 2\), the public pool has \(1, 1, 1\)$"):
        inputs_of(source(other), ALL, form_of(CONTENTS["images"]))


def test_a_column_that_is_missing_is_refused_with_the_name_of_the_source():
    with pytest.raises(DataError, match=r"^/x: there is no column 'age'"):
        inputs_of(source(Table(pd.DataFrame({"sex": [1, 2, 3]}))), ALL, form_of(CONTENTS["a table"]))
