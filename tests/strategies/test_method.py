import pytest

from protocol.errors import SettingsError
from strategies.sides import ServerSide
from tests.strategies.sides import CLASSES, CPU, IMAGES, public_pool, tiny_settings


def server_for(input_shape, augmentation):
    settings = tiny_settings(train__augmentation=augmentation)
    return ServerSide(settings, public_pool(settings), input_shape, CLASSES, CPU)


@pytest.mark.parametrize("shape", [(13,), (64, 4096)], ids=["a table", "texts"])
def test_changes_of_images_are_refused_where_there_are_none(shape):
    with pytest.raises(SettingsError, match=r'^train.augmentation = "shift": .*; allowed is "none"$'):
        server_for(shape, "shift")
    server_for(shape, "none")
    server_for(IMAGES, "shift")
