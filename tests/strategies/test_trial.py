"""A network that does not work is refused by name, with what came and what was expected."""

import json

import pytest
import torch

from data import load_shared
from protocol.errors import SettingsError
from protocol.settings import RunSettings
from strategies import trial
from strategies.trial import try_model
from tests.support.checkpoints import another_package, write_distilbert, write_reviews, write_vit

CPU = torch.device("cpu")
DIGITS = RunSettings.parse({"public.size": 20, "public.subset-size": 10})


@pytest.fixture(scope="module", autouse=True)
def _their_package():
    with another_package():
        yield


def refusal(name, settings=DIGITS, setting="model"):
    with pytest.raises(SettingsError) as refused:
        try_model(name, settings, CPU, setting)
    return str(refused.value)


GIVEN = "given 2 inputs of shape (1, 8, 8)"
WANTED = "expected logits of shape (2, 10)"
REFUSED = {
    "tests_custom.networks:Wide": f"{GIVEN} in training mode: got a tensor of shape (2, 11); {WANTED}",
    "tests_custom.networks:OnlyInEval": f"{GIVEN} in training mode: got a tensor of shape (1, 10); {WANTED}",
    "tests_custom.networks:Undefined": f"{GIVEN} in training mode: got values that are not finite; {WANTED}",
    "tests_custom.networks:Detached": f"{GIVEN} in training mode: got an answer that depends on no parameter "
    f"that learns; {WANTED}",
    "tests_custom.networks:Dictionary": f"{GIVEN} in training mode: got a dict; {WANTED}",
    "tests_custom.networks:Classes": f"{GIVEN} in training mode: got numbers of torch.int64; {WANTED}",
    "tests_custom.networks:Lazy": f"{GIVEN}: got a lazy layer (head.weight); expected layers whose sizes are "
    "given",
    "tests_custom.networks:failing": "cannot be built for inputs of shape (1, 8, 8): KeyError: 'width'",
    "tests_custom.networks:no_network": "must build a torch.nn.Module, got list",
    "torchvision:alexnet": f"{GIVEN} in training mode: got RuntimeError: ",
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_a_network_that_does_not_work_is_refused_by_name(name, message):
    assert refusal(name).startswith(f'model = "{name}": {message}')


def test_the_setting_that_names_the_network_is_named():
    assert refusal("tests_custom.networks:Wide", setting="models").startswith('models = "tests_custom')


def test_images_of_a_library_s_network_come_with_the_size_that_would_do():
    assert refusal("torchvision:alexnet").endswith("set data.image-size = 64")


def test_values_of_pretrained_weights_that_are_not_finite_are_refused(tmp_path):
    from models import build_model, save_weights

    state = build_model("tests_custom.networks:Odd", (1, 8, 8), 10, seed=0).state_dict()
    state["head.bias"][3] = float("nan")
    save_weights(tmp_path / "weights.safetensors", state, {})
    settings = DIGITS.model_copy(update={"pretrained": str(tmp_path / "weights.safetensors")})
    assert "got values that are not finite" in refusal("tests_custom.networks:Odd", settings)


@pytest.mark.parametrize("name", ["tests_custom.networks:Odd", "torchvision:resnet18"])
def test_a_network_that_works_passes_and_the_random_generator_is_left_alone(name):
    trial.try_model.cache_clear()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    try_model(name, DIGITS, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_is_tried_once_a_process(monkeypatch):
    trial.try_model.cache_clear()
    built = []
    real = trial.build_model
    monkeypatch.setattr(trial, "build_model", lambda name, *rest: built.append(name) or real(name, *rest))
    for _ in range(3):
        try_model("tests_custom.networks:Odd", DIGITS, CPU)
    assert built == ["tests_custom.networks:Odd"]


def test_our_own_networks_are_not_tried_again(monkeypatch):
    trial.try_model.cache_clear()
    monkeypatch.setattr(trial, "build_model", None)
    for name in ("cnn", "resnet20", "elastic-cnn"):
        try_model(name, DIGITS, CPU)


def test_weights_that_do_not_fit_one_of_our_own_networks_are_refused(tmp_path):
    settings = DIGITS.model_copy(update={"pretrained": str(tmp_path)})
    assert refusal("cnn", settings).startswith(f"pretrained = \"{tmp_path}\": model 'cnn' reads its weights")


def test_what_our_own_do_not_read_is_refused():
    said = refusal("elastic-bert-tiny")
    assert said.startswith("model = 'elastic-bert-tiny': reads texts, but the data are images")


def test_a_pool_of_one_sample_is_enough():
    settings = RunSettings.parse({"public.size": 1, "public.subset-size": 1})
    try_model("tests_custom.networks:Odd", settings, CPU)


# --- an elastic network of another's -----------------------------------------------------------------


def test_all_exits_of_another_s_elastic_network_are_tried():
    assert "got a tensor of shape (2, 11)" in refusal("tests_custom.elastic:WRONG_AT_THE_SECOND_EXIT")
    try_model("tests_custom.elastic:RIGHT", DIGITS, CPU)


# --- texts -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Return reviews, and checkpoints of two networks with one tokeniser and of one with another."""
    folder = tmp_path_factory.mktemp("texts")
    words = ("a lovely film", "a boring film")
    return {
        "reviews": write_reviews(folder / "reviews.csv"),
        "first": write_distilbert(folder / "first", words),
        "alike": write_distilbert(folder / "alike", words),
        "other": write_distilbert(folder / "other", ("other words", "than those")),
        "images": write_vit(folder / "images"),
    }


def with_texts(texts, **changes):
    config = {
        "data.source": str(texts["reviews"]),
        "data.server-test-size": 20,
        "public.size": 20,
        "public.subset-size": 10,
        "text.length": 12,
    }
    return RunSettings.parse({**config, **{k.replace("__", "."): str(v) for k, v in changes.items()}})


def test_texts_are_tokenised_as_the_run_s_network_does(texts):
    run = with_texts(texts, model=f"transformers:{texts['first']}")
    own = json.loads((texts["first"] / "tokenizer.json").read_text())
    assert json.loads(load_shared(run).form.tokeniser)["model"]["vocab"] == own["model"]["vocab"]
    try_model(run.model, run, CPU)


def test_a_network_with_the_same_tokeniser_takes_part(texts):
    run = with_texts(texts, model=f"transformers:{texts['first']}")
    try_model(f"transformers:{texts['alike']}", run, CPU, "models")


def test_a_network_with_another_tokeniser_is_refused(texts):
    run = with_texts(texts, model=f"transformers:{texts['first']}")
    said = refusal(f"transformers:{texts['other']}", run, "models")
    assert said.startswith(f'models = "transformers:{texts["other"]}": its tokeniser has another vocabulary')
    assert f'that of "transformers:{texts["first"]}"' in said


def test_a_network_with_a_tokeniser_is_refused_where_the_run_trains_its_own(texts):
    run = with_texts(texts, model="elastic-bert-tiny")
    assert "trained on the public pool" in refusal(f"transformers:{texts['first']}", run, "models")


def test_a_checkpoint_without_a_tokeniser_is_refused_by_the_setting_that_names_it(texts):
    run = with_texts(texts, model=f"transformers:{texts['images']}")
    with pytest.raises(SettingsError, match=f'^model = "transformers:{texts["images"]}": .*tokeniser'):
        load_shared(run)
