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


def test_only_the_first_samples_are_taken_if_asked():
    whole, part = load_source("digits").samples, load_source("digits", 70).samples
    assert torch.equal(part.inputs, whole.inputs[:70])
    assert torch.equal(part.targets, whole.targets[:70])


@pytest.mark.parametrize("name", ["nothing.parquet", "."])
def test_a_path_without_a_file_is_refused(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(DataError, match=f'data\\.source = "{path}": there is no such file'):
        load_source(str(path))
