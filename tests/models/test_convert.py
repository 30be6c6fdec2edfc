"""Pickled weights become safetensors, and nothing else is unpickled."""

import collections

import pytest
import torch
from safetensors import safe_open

from models import build_model, load_weights
from models.convert import convert, main
from protocol.errors import DataError
from protocol.settings import RunSettings


def cnn():
    return build_model("cnn", (1, 8, 8), 10, seed=4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "lr": 0.1},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
    ids=["state dict", "with the epoch", "under model", "of parallel training"],
)
def test_a_network_begins_with_weights_that_were_pickled(wrap, tmp_path):
    torch.save(wrap(cnn().state_dict()), tmp_path / "cnn.pth")

    assert main([str(tmp_path / "cnn.pth"), str(tmp_path / "cnn.safetensors")]) == 0

    settings = RunSettings.parse({"pretrained": str(tmp_path / "cnn.safetensors")})
    loaded = build_model("cnn", (1, 8, 8), 10, 0, settings).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in cnn().state_dict().items())


def test_tied_weights_are_written_twice_and_the_format_is_named(tmp_path):
    shared = torch.rand(3)
    torch.save({"a": shared, "b": shared}, tmp_path / "tied.pth")
    assert convert(tmp_path / "tied.pth", tmp_path / "tied.safetensors") == 2
    state, _ = load_weights(tmp_path / "tied.safetensors")
    assert torch.equal(state["a"], state["b"])
    with safe_open(tmp_path / "tied.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


class Harmful:
    def __reduce__(self):
        return (collections.OrderedDict.fromkeys, (["ran"],))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Harmful(), "holds more than weights, or is damaged"),
        (cnn(), "holds more than weights, or is damaged"),
        ({"weight": torch.zeros(1), "epoch": 3}, "'epoch' is no tensor"),
        ([torch.zeros(1)], "holds no state dict but list"),
        ({}, "holds no state dict but dict"),
    ],
    ids=["code", "a whole module", "more than tensors", "a list", "nothing"],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "other.pth", tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_the_command_says_what_is_wrong_and_fails(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (("text", "holds more than weights"), ("absent", "No such file")):
        assert main([str(tmp_path / f"{name}.pth"), str(tmp_path / f"{name}.safetensors")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert message in said
        assert "weights_only=False" not in said
