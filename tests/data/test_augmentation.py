import pytest
import torch
from torch.nn import functional

from data.augmentation import augment

KINDS = ["none", "shift", "crop-flip"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=64, channels=1, height=8, width=8):
    return torch.rand(count, channels, height, width, generator=generator(99))


def translations(image, margin):
    """All images that ``image`` becomes when it moves by at most ``margin`` pixels."""
    _, height, width = image.shape
    padded = functional.pad(image, (margin,) * 4)
    places = range(2 * margin + 1)
    return [padded[:, row : row + height, column : column + width] for row in places for column in places]


def find(image, candidates):
    return next((place for place, one in enumerate(candidates) if torch.equal(one, image)), None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (3, 3, 32, 32), (2, 1, 4, 6), (1, 1, 8, 8), (0, 1, 8, 8)])
def test_shape_and_type_stay(kind, shape):
    changed = augment(torch.zeros(shape), kind, generator())
    assert changed.shape == shape
    assert changed.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_given_stay_as_they_are(kind):
    inputs = images()
    before = inputs.clone()
    augment(inputs, kind, generator())
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("kind", ["shift", "crop-flip"])
def test_the_change_follows_from_the_generator(kind):
    inputs = images()
    assert torch.equal(augment(inputs, kind, generator(1)), augment(inputs, kind, generator(1)))
    assert not torch.equal(augment(inputs, kind, generator(1)), augment(inputs, kind, generator(2)))


def test_none_changes_nothing():
    inputs = images()
    assert torch.equal(augment(inputs, "none", generator()), inputs)


@pytest.mark.parametrize(("side", "margin"), [(4, 1), (8, 1), (16, 2), (32, 4)])
def test_shift_moves_each_image_by_at_most_an_eighth_of_its_side(side, margin):
    inputs = images(count=300, channels=3, height=side, width=side)
    changed = augment(inputs, "shift", generator())
    places = [
        find(after, translations(before, margin)) for before, after in zip(inputs, changed, strict=True)
    ]
    assert None not in places
    rows, columns = ({divmod(place, 2 * margin + 1)[axis] for place in places} for axis in (0, 1))
    assert rows == columns == set(range(2 * margin + 1))


def test_crop_flip_mirrors_about_half_of_the_images_and_shifts_them():
    inputs = images(count=300)
    changed = augment(inputs, "crop-flip", generator())
    straight = [find(after, translations(before, 1)) for before, after in zip(inputs, changed, strict=True)]
    mirrored = [
        find(after.flip(-1), translations(before, 1)) for before, after in zip(inputs, changed, strict=True)
    ]
    assert all((one is None) != (other is None) for one, other in zip(straight, mirrored, strict=True))
    assert 100 < straight.count(None) < 200
    assert set(mirrored) - {None} == set(range(9))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["shift", "crop-flip"])
def test_the_change_is_the_same_on_every_device(kind):
    inputs = images()
    on_gpu = augment(inputs.cuda(), kind, generator())
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), augment(inputs, kind, generator()))
