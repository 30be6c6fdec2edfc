import pytest
import torch

from data import PublicPool
from data.inputs import TensorInputs, TokenInputs
from protocol.errors import SettingsError
from strategies.sides import ServerSide
from tests.strategies.sides import CLASSES, CPU, public_pool, tiny_settings

OTHERS = {
    "a table": TensorInputs(torch.rand(8, 13)),
    "texts": TokenInputs(torch.ones(8, 4, dtype=torch.int32), torch.full((8,), 4), (4, 10)),
}


def server_for(inputs, augmentation):
    settings = tiny_settings(train__augmentation=augmentation)
    return ServerSide(settings, PublicPool(inputs, "pool"), inputs.shape, CLASSES, CPU)


@pytest.mark.parametrize("data", OTHERS)
def test_changes_of_images_are_refused_where_there_are_none(data):
    with pytest.raises(SettingsError, match=r'^train.augmentation = "shift": .*; allowed is "none"$'):
        server_for(OTHERS[data], "shift")
    server_for(OTHERS[data], "none")
    server_for(public_pool(tiny_settings()).inputs, "shift")
