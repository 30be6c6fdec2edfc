import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from models import build_model, count_parameters


def test_it_has_the_parameters_its_docstring_implies():
    first, second, head = 1 * 32 * 9 + 2 * 32, 32 * 48 * 9 + 2 * 48, 48 * 4 * 4 * 10 + 10

    assert count_parameters(build_model("cnn", (1, 8, 8), 10, seed=0)) == first + second + head == 21_962


def test_size_of_the_head_does_not_grow_with_the_image():
    sizes = {count_parameters(build_model("cnn", (1, side, side), 10, seed=0)) for side in (8, 16, 28, 32)}

    assert len(sizes) == 1


def test_every_image_size_from_8_is_accepted():
    for height in range(8, 33):
        width = 40 - height
        model = build_model("cnn", (1, height, width), 10, seed=0)
        assert model(torch.zeros(2, 1, height, width)).shape == (2, 10)


def test_output_for_a_sample_does_not_depend_on_the_rest_of_the_batch():
    model = build_model("cnn", (1, 8, 8), 10, seed=0)
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    assert torch.allclose(model(images)[:1], model(images[:1]), atol=1e-5)


@pytest.mark.slow
def test_plain_sgd_on_800_digits_exceeds_95_percent_after_ten_epochs():
    generator = torch.Generator().manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    shuffled = torch.randperm(len(labels), generator=generator)
    train, test = shuffled[:800], shuffled[800:]
    model = build_model("cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    for _ in range(10):
        for batch in train[torch.randperm(800, generator=generator)].split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

    with torch.no_grad():
        accuracy = (model(images[test]).argmax(dim=1) == labels[test]).float().mean().item()
    assert accuracy > 0.95
