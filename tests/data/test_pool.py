import torch

from data.inputs import TensorInputs
from data.pool import PublicPool

POOL = PublicPool(TensorInputs(torch.arange(6.0).reshape(3, 2)), "0123456789abcdef" * 2)


def test_a_pool_knows_its_size():
    assert len(POOL) == 3


def test_a_pool_on_another_device_is_the_same_pool():
    moved = POOL.to("meta")
    assert moved.inputs.device == torch.device("meta")
    assert (len(moved), moved.digest) == (3, POOL.digest)
