import pytest
import torch

from data.pool import PublicPool, digest


@pytest.fixture
def inputs():
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_equal_inputs_have_equal_digests(inputs):
    assert digest(inputs) == digest(inputs.clone())


def test_the_digest_is_32_hexadecimal_digits(inputs):
    assert len(bytes.fromhex(digest(inputs))) == 16


def test_strides_do_not_matter(inputs):
    assert digest(inputs.to(memory_format=torch.channels_last)) == digest(inputs)
    assert digest(inputs.transpose(2, 3).contiguous().transpose(2, 3)) == digest(inputs)


def test_one_pixel_matters(inputs):
    other = inputs.clone()
    other[3, 0, 2, 1] += 2**-20
    assert digest(other) != digest(inputs)


def test_the_order_of_the_images_matters(inputs):
    assert digest(inputs.flip(0)) != digest(inputs)


def test_the_shape_matters(inputs):
    assert digest(inputs.reshape(6, 1, 2, 8)) != digest(inputs)


def test_the_type_matters():
    # Both are all zero bytes, and as many.
    assert digest(torch.zeros(4, dtype=torch.float32)) != digest(torch.zeros(4, dtype=torch.int32))


def test_the_digest_is_the_same_on_every_machine():
    assert (
        digest(torch.arange(8, dtype=torch.float32).reshape(2, 1, 2, 2)) == "5c9fbe03e9c76d8fd62400d53e23f514"
    )


def test_a_pool_knows_its_size_and_its_digest(inputs):
    pool = PublicPool.of(inputs)
    assert len(pool) == 6
    assert pool.digest == digest(inputs)
