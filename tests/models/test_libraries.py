"""Networks of torchvision, timm and transformers, by their names there."""

import json
import sys

import pytest
import torch
from torch import nn

from models import build_model, learned_state, load_learned_state, load_weights, save_weights
from models import transformers_networks as ours
from models.image_library import fitting_images
from models.registry import model_of
from models.torchvision_networks import own_names
from protocol.errors import SettingsError
from protocol.settings import DEFAULTS, RunSettings
from tests.support.checkpoints import another_package, write_distilbert, write_vit

pytestmark = pytest.mark.slow

TEXTS = (12, 40)
"""Most tokens of a text, and pieces of a vocabulary."""
WORDS = ("a film that is lovely", "a film that is awful")


@pytest.fixture(scope="module", autouse=True)
def _their_package():
    with another_package():
        yield


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return write_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    return write_distilbert(tmp_path_factory.mktemp("distilbert"), WORDS)


# --- torchvision and timm ----------------------------------------------------------------------------

FITTING = [
    ("torchvision:mobilenet_v3_small", (1, 8, 8)),
    ("torchvision:resnet18", (3, 32, 32)),
    ("torchvision:regnet_y_400mf", (1, 28, 28)),
    ("torchvision:vit_b_32", (1, 32, 32)),
    ("torchvision:googlenet", (3, 32, 32)),
    ("torchvision:swin_t", (1, 28, 28)),
    ("timm:resnet10t", (1, 8, 8)),
    ("timm:convnext_atto", (3, 32, 32)),
    ("timm:test_vit", (1, 32, 32)),
]


@pytest.mark.parametrize(("name", "shape"), FITTING, ids=str)
def test_a_network_of_a_library_takes_the_data_s_channels_size_and_classes(name, shape):
    model = build_model(name, shape, 7, seed=0)
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    for mode in (True, False):
        logits = model.train(mode)(images)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
    assert model_of(name).reads == {"images"}


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "timm:convnext_atto"])
def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone(name):
    before = torch.random.get_rng_state()
    first, again, other = (build_model(name, (1, 32, 32), 5, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_torchvision_s_resnet18_is_torchvision_s_own_and_ours_is_fitted_to_small_images():
    theirs = build_model("torchvision:resnet18", (3, 32, 32), 10, seed=0)
    fitted = build_model("resnet18", (3, 32, 32), 10, seed=0)
    assert theirs.get_submodule("conv1").kernel_size == (7, 7)
    assert fitted.get_submodule("conv1").kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("name", "near", "listing"),
    [
        ("torchvision:resnet19", "resnet18", "torchvision.models.list_models(module=torchvision.models)"),
        ("torchvision:deeplabv3_resnet50", "resnet50", "torchvision.models.list_models"),
        ("timm:convnext_at", "convnext_atto", "timm.list_models()"),
    ],
)
def test_an_unknown_name_is_refused_with_those_near(name, near, listing):
    with pytest.raises(SettingsError) as refusal:
        model_of(name, "models")
    said = str(refusal.value)
    assert said.startswith(
        f'models = "{name}": {name.split(":")[0]} has no classifier of images of that name'
    )
    assert near in said.partition("near it are ")[2]
    assert listing in said


@pytest.mark.parametrize("name", ["timm:resnet10t.c3_in1k", "timm:hf-hub:timm/resnet10t.c3_in1k"])
def test_nothing_is_downloaded_for_a_name(name):
    with pytest.raises(SettingsError, match="no classifier of images of that name"):
        model_of(name)


def test_where_timm_is_not_installed_it_says_how_to_get_it(monkeypatch):
    from models import timm_networks

    monkeypatch.setitem(sys.modules, "timm", None)  # makes every import of it fail
    with pytest.raises(SettingsError, match=r'^models = "timm:resnet10t": timm is not .*uv pip install timm'):
        timm_networks.find("resnet10t", "models")


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet10t"])
def test_networks_for_images_refuse_the_rows_of_a_table(name):
    with pytest.raises(SettingsError, match="reads images, but the data are a table's rows"):
        build_model(name, (13,), 2, seed=0)


@pytest.mark.parametrize(
    ("name", "shape", "remedy"),
    [
        ("torchvision:alexnet", (3, 32, 32), "64 pixels a side: set data.image-size = 64"),
        ("torchvision:vgg11", (1, 8, 8), "32 pixels a side: set data.image-size = 32"),
        ("torchvision:vit_b_16", (1, 28, 28), "32 pixels a side: set data.image-size = 32"),
        ("torchvision:vit_b_16", (3, 32, 48), "64 pixels a side: set data.image-size = 64"),
        ("torchvision:maxvit_t", (3, 300, 300), "224 pixels a side: set data.image-size = 224"),
        ("timm:convnext_atto", (3, 8, 8), "32 pixels a side: set data.image-size = 32"),
    ],
    ids=str,
)
def test_the_size_that_would_fit_is_the_next_one_up_or_else_the_largest(name, shape, remedy):
    assert model_of(name).remedy(shape, 5, DEFAULTS) == f"it takes images of {remedy}"


def test_a_network_that_can_only_be_built_with_values_says_its_size_too():
    assert model_of("torchvision:regnet_x_400mf").remedy((1, 4, 4), 5, DEFAULTS).endswith(" = 16")


def test_a_network_that_fits_nothing_has_no_remedy():
    assert fitting_images(lambda shape, classes: nn.Linear(3, 2), (1, 8, 8), 5) == ""


def test_a_network_that_cannot_be_built_for_the_images_is_refused_with_the_size_that_would_do():
    with pytest.raises(SettingsError) as refusal:
        build_model("torchvision:vit_b_16", (1, 28, 28), 5, seed=0)
    said = str(refusal.value)
    assert said.startswith(
        'model = "torchvision:vit_b_16": cannot be built for inputs of shape (1, 28, 28): '
    )
    assert said.endswith("set data.image-size = 32")


# --- published weights -------------------------------------------------------------------------------


def test_densenet_s_old_names_become_those_of_its_network():
    model = build_model("torchvision:densenet121", (3, 32, 32), 10, seed=0)
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert old.keys() != model.state_dict().keys()
    assert own_names(old).keys() == model.state_dict().keys()


def test_heads_that_inception_has_for_training_alone_are_left_out(tmp_path):
    state = build_model("torchvision:googlenet", (3, 32, 32), 10, seed=7).state_dict()
    save_weights(tmp_path / "w.safetensors", {**state, "aux1.fc2.weight": torch.zeros(10, 4)}, {})
    settings = RunSettings.parse({"pretrained": str(tmp_path / "w.safetensors")})
    loaded = build_model("torchvision:googlenet", (3, 32, 32), 10, 0, settings).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


# --- what travels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision:mobilenet_v3_small", (1, 32, 32)),
        ("torchvision:resnet18", (1, 8, 8)),
        ("torchvision:swin_t", (1, 32, 32)),
        ("timm:resnet10t", (1, 8, 8)),
        ("timm:convnext_atto", (1, 32, 32)),
        ("timm:test_vit", (1, 32, 32)),
        ("tests_custom.networks:Odd", (1, 8, 8)),
        ("vit", (1, 8, 8)),
        ("distilbert", TEXTS),
    ],
    ids=str,
)
def test_a_network_s_state_goes_through_a_message_and_a_file_into_another_of_its_kind(
    name, shape, vit, distilbert, tmp_path
):
    from strategies.weights.messages import WeightsRequest

    name = {"vit": f"transformers:{vit}", "distilbert": f"transformers:{distilbert}"}.get(name, name)
    source, target = (build_model(name, shape, 4, seed).eval() for seed in (1, 2))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.01)
    state = learned_state(source)
    assert state.keys() == source.state_dict().keys()

    received = WeightsRequest.from_record(WeightsRequest("experiment", 1, state).to_record()).weights
    save_weights(tmp_path / "state.safetensors", received, {})
    kept, _ = load_weights(tmp_path / "state.safetensors")
    load_learned_state(target, kept)

    assert all(torch.equal(tensor, kept[key]) for key, tensor in state.items())
    assert all(tensor.dtype == kept[key].dtype for key, tensor in state.items())
    inputs = torch.randint(1, 40, (3, 12)) if len(shape) == 2 else torch.rand(3, *shape)
    assert torch.equal(target(inputs), source(inputs))


# --- transformers ------------------------------------------------------------------------------------


def test_a_checkpoint_s_network_begins_with_its_weights_and_head(vit):
    from transformers import ViTForImageClassification

    theirs = ViTForImageClassification.from_pretrained(vit).eval()
    model = build_model(f"transformers:{vit}", (1, 8, 8), 10, seed=0).eval()
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(images), theirs(pixel_values=images).logits)


def test_a_head_for_other_classes_follows_from_the_seed(vit):
    first, again, other = (
        build_model(f"transformers:{vit}", (1, 8, 8), 3, seed).state_dict() for seed in (1, 1, 2)
    )
    differing = {key for key in first if not torch.equal(first[key], other[key])}
    assert differing == {"network.classifier.weight"}
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_checkpoint_without_a_head_gets_one_at_random(tmp_path):
    from transformers import ViTModel

    write_vit(tmp_path, head=False)
    model = build_model(f"transformers:{tmp_path}", (1, 8, 8), 3, seed=1)
    theirs = ViTModel.from_pretrained(tmp_path).state_dict()
    state = model.state_dict()
    assert torch.equal(state["network.vit.embeddings.cls_token"], theirs["embeddings.cls_token"])
    assert state["network.classifier.weight"].shape == (3, 16)


def test_colour_images_reach_a_network_trained_on_grey_ones(vit):
    grey = build_model(f"transformers:{vit}", (1, 8, 8), 10, seed=0).eval()
    colour = build_model(f"transformers:{vit}", (3, 8, 8), 10, seed=0).eval()
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(colour(images.expand(2, 3, 8, 8)), grey(images))


def test_a_checkpoint_s_own_size_is_the_remedy_for_other_images(tmp_path):
    write_vit(tmp_path, image_size=40, num_channels=3)
    remedy = model_of(f"transformers:{tmp_path}").remedy((3, 32, 32), 10, DEFAULTS)
    assert remedy == "it takes images of 40 pixels a side: set data.image-size = 40"


def test_texts_are_read_with_their_padding_masked(distilbert):
    model = build_model(f"transformers:{distilbert}", TEXTS, 2, seed=0).eval()
    short = torch.tensor([[2, 7, 9, 3]])
    padded = torch.nn.functional.pad(short, (0, 5))
    torch.testing.assert_close(model(padded), model(short))


def test_a_node_reads_the_weights_where_they_lie_on_it(tmp_path, vit):
    settings = RunSettings.parse({"pretrained": str(vit)})  # what model-path becomes
    model = build_model(f"transformers:{tmp_path}/elsewhere", (1, 8, 8), 10, 0, settings)
    here = build_model(f"transformers:{vit}", (1, 8, 8), 10, seed=0)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in here.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("vit", TEXTS, 'is of the family "vit", which classifies images; the data are texts'),
        (
            "distilbert",
            (1, 8, 8),
            'is of the family "distilbert", which classifies texts; the data are images',
        ),
        ("distilbert", (64, 40), r"^text.length = 64: model = .* has 32 positions"),
        ("distilbert", (12, 4000), "the tokeniser has 4000 pieces, the network knows"),
        ("distilbert", (13,), "reads images and texts, but the data are a table's rows"),
    ],
)
def test_data_that_a_checkpoint_s_network_does_not_take_are_refused(kind, shape, message, vit, distilbert):
    place = {"vit": vit, "distilbert": distilbert}[kind]
    with pytest.raises(SettingsError, match=message):
        build_model(f"transformers:{place}", shape, 2, seed=0)


@pytest.mark.parametrize("place", ["relative path", "../vit", "a/b/c"])
def test_what_can_be_no_checkpoint_is_refused_before_anything_is_read(place):
    with pytest.raises(SettingsError, match=r'^models = "transformers:.*absolute path .* or a Hugging Face'):
        model_of(f"transformers:{place}", "models")


def test_a_place_without_a_checkpoint_is_refused(tmp_path):
    name = f"transformers:{tmp_path}/nowhere"
    with pytest.raises(SettingsError, match=f'^model = "{name}": no configuration can be read there'):
        build_model(name, (1, 8, 8), 2, seed=0)


def test_a_hub_id_without_a_network_is_refused_and_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        SettingsError, match=r'^model = "transformers:owner/vit": no configuration can be read'
    ):
        build_model("transformers:owner/vit", (1, 8, 8), 2, seed=0)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path):
    write_vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match=r"no weights can be read there .*python -m models.convert"):
        build_model(f"transformers:{tmp_path}", (1, 8, 8), 2, seed=0)


def test_weights_that_lack_a_part_of_the_body_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    write_vit(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["vit.embeddings.position_embeddings"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SettingsError, match=r"its weights lack vit.embeddings.position_embeddings; 1 in all"):
        build_model(f"transformers:{tmp_path}", (1, 8, 8), 2, seed=0)


def test_code_beside_a_checkpoint_is_not_run(tmp_path):
    trace = tmp_path / "it ran"
    (tmp_path / "configuration.py").write_text(f"open({str(trace)!r}, 'w')\nclass Mine: pass\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "configuration.Mine"}})
    )
    with pytest.raises(SettingsError, match="no configuration can be read there"):
        build_model(f"transformers:{tmp_path}", (1, 8, 8), 2, seed=0)
    assert not trace.exists()


def test_a_checkpoint_is_read_once_a_process(vit, monkeypatch):
    build_model(f"transformers:{vit}", (1, 8, 8), 10, seed=0)
    monkeypatch.setattr(ours, "_library_class", _ReadsNothing(ours._library_class))
    build_model(f"transformers:{vit}", (1, 8, 8), 10, seed=1)


class _ReadsNothing:
    """The library's classes without the means to read a checkpoint."""

    def __init__(self, real):
        self._real = real

    def __call__(self, kind):
        real = self._real(kind)
        return type("Class", (), {"from_config": staticmethod(real.from_config)})
