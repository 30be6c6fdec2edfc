import pytest
import torch

from data.sources import load_source
from protocol.errors import DataError


def test_digits_are_grey_images_from_0_to_1_with_ten_classes():
    source = load_source("digits")
    assert source.samples.inputs.shape == (1797, 1, 8, 8)
    assert source.samples.inputs.dtype == torch.float32
    assert (source.samples.inputs.min(), source.samples.inputs.max()) == (0, 1)
    assert source.samples.targets.dtype == torch.int64
    assert source.samples.targets.unique().tolist() == list(range(source.num_classes))


def test_a_source_is_loaded_once():
    assert load_source("digits") is load_source("digits")


def test_an_unknown_source_is_refused_with_the_names_that_exist():
    with pytest.raises(DataError, match=r'data\.source = "mnist": must be one of digits'):
        load_source("mnist")
