"""Weights of a checkpoint in any network, and what is refused by name."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from models import build_model, pretrained
from models.registry import MODELS
from protocol.errors import SettingsError
from protocol.settings import RunSettings

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def with_weights(name, shape, classes, place, seed=0):
    return build_model(name, shape, classes, seed, RunSettings.parse({"pretrained": str(place)}))


@pytest.fixture
def notes(caplog):
    """Return the log, in which nothing was said yet."""
    pretrained._mention.cache_clear()
    caplog.set_level(logging.INFO, logger="flwr")
    return caplog


def saved(tmp_path, name, shape, classes, change=lambda state: None):
    state = build_model(name, shape, classes, seed=9).state_dict()
    change(state)
    file = tmp_path / "weights.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    return file, state


@pytest.mark.parametrize("name", [name for name in MODELS if not MODELS.find(name).is_elastic])
def test_every_plain_network_begins_with_the_weights_of_a_file(name, tmp_path, notes):
    file, state = saved(tmp_path, name, GREY, 10)
    loaded = with_weights(name, GREY, 10, file).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())
    assert not notes.messages


def test_a_folder_with_the_file_is_read_as_the_file(tmp_path):
    file, state = saved(tmp_path, "cnn", GREY, 10)
    file.rename(tmp_path / "model.safetensors")
    loaded = with_weights("cnn", GREY, 10, tmp_path).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_a_head_for_other_classes_is_left_at_random_and_the_log_says_so(tmp_path, notes):
    file, state = saved(tmp_path, "resnet20", GREY, 1000)
    loaded = with_weights("resnet20", GREY, 10, file, seed=3).state_dict()
    fresh = build_model("resnet20", GREY, 10, seed=3).state_dict()
    head = {key for key in state if state[key].shape != fresh[key].shape}
    assert len(head) == 2
    for key, tensor in loaded.items():
        assert torch.equal(tensor, (fresh if key in head else state)[key]), key
    assert notes.messages == [
        f"model 'resnet20': {', '.join(sorted(head))} begin at random: pretrained = \"{file}\" knows 1000 "
        "classes, the data have 10"
    ]


def test_the_log_says_so_once_a_process(tmp_path, notes):
    file, _ = saved(tmp_path, "cnn", GREY, 12)
    for seed in range(3):
        with_weights("cnn", GREY, 10, file, seed)
    assert len(notes.messages) == 1


def test_a_first_convolution_for_colour_takes_grey_images(tmp_path):
    file, _ = saved(tmp_path, "resnet20", COLOUR, 10)
    colour = build_model("resnet20", COLOUR, 10, seed=9).eval()
    images = torch.rand(2, *GREY)
    grey = with_weights("resnet20", GREY, 10, file).eval()
    torch.testing.assert_close(grey(images), colour(images.expand(2, *COLOUR)))


def test_counters_of_norms_may_be_absent_as_in_weights_published_long_ago(tmp_path):
    def without_counters(state):
        for key in [key for key in state if key.endswith("num_batches_tracked")]:
            del state[key]

    file, state = saved(tmp_path, "resnet20", GREY, 10, without_counters)
    loaded = with_weights("resnet20", GREY, 10, file).state_dict()
    assert loaded.keys() > state.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_half_precision_becomes_float32(tmp_path):
    file, state = saved(
        tmp_path, "cnn", GREY, 10, lambda state: state.update({k: t.half() for k, t in state.items()})
    )
    loaded = with_weights("cnn", GREY, 10, file).state_dict()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in state.items())
    assert all(tensor.dtype == torch.float32 for tensor in loaded.values())


REFUSED = {
    "a tensor too few": (
        lambda state: state.pop("conv2.weight"),
        "tensor 'conv2.weight': got no such tensor, model 'cnn' has (48, 32, 3, 3)",
    ),
    "a tensor too many": (
        lambda state: state.update({"extra": torch.zeros(2)}),
        "tensor 'extra': got (2,), model 'cnn' has no such tensor",
    ),
    "another shape": (
        lambda state: state.update({"conv2.weight": torch.zeros(48, 32, 5, 5)}),
        "tensor 'conv2.weight': got (48, 32, 5, 5), model 'cnn' has (48, 32, 3, 3)",
    ),
    "a first convolution of another size": (
        lambda state: state.update({"conv1.weight": torch.zeros(32, 3, 5, 5)}),
        "tensor 'conv1.weight': got (32, 3, 5, 5), model 'cnn' has (32, 1, 3, 3)",
    ),
    "a head for other inputs": (
        lambda state: state.update({"head.weight": torch.zeros(12, 5), "head.bias": torch.zeros(12)}),
        "tensor 'head.weight': got (12, 5), model 'cnn' has (10, 768)",
    ),
    "a head that disagrees about the classes": (
        lambda state: state.update({"head.weight": torch.zeros(12, 768), "head.bias": torch.zeros(13)}),
        "tensor 'head.bias': got (13,), model 'cnn' has (10,)",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_whatever_else_differs_is_refused_by_name(change, message, tmp_path):
    file, _ = saved(tmp_path, "cnn", GREY, 10, change)
    with pytest.raises(SettingsError) as refusal:
        with_weights("cnn", GREY, 10, file)
    assert str(refusal.value) == f'pretrained = "{file}": {message}'


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(suffix, tmp_path):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(b"never read")
    with pytest.raises(SettingsError, match="is a pickle, which runs code as it is read") as refusal:
        with_weights("cnn", GREY, 10, file)
    assert str(refusal.value).endswith(f"python -m models.convert {file} {tmp_path / 'weights.safetensors'}")


def test_a_folder_with_a_pickle_alone_is_refused_with_the_command_too(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(SettingsError, match=r"pytorch_model\.bin is a pickle") as refusal:
        with_weights("cnn", GREY, 10, tmp_path)
    assert str(refusal.value).endswith(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("place", ["/nowhere", "/nowhere.safetensors", "/nowhere.pth", "owner/weights"])
def test_a_place_without_weights_is_refused(place):
    with pytest.raises(SettingsError, match=r"reads its weights from a file of safetensors .* there is none"):
        with_weights("cnn", GREY, 10, place)


def test_a_damaged_file_is_refused(tmp_path):
    file, _ = saved(tmp_path, "cnn", GREY, 10)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SettingsError, match=f'^pretrained = "{file}": .*no readable weights'):
        with_weights("cnn", GREY, 10, file)
