"""What a run is made of fits together, or is refused before anything is trained."""

import ast
from pathlib import Path

import pytest

from models.registry import MODELS, elastic_names
from protocol.errors import SettingsError
from protocol.references import PACKAGES
from protocol.settings import RunSettings
from strategies import compose
from strategies.composition import METHODS
from strategies.method import Exchanges

REPOSITORY = Path(__file__).parents[2]


def refusal(simulation=True, **config):
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in config.items()}
    with pytest.raises(SettingsError) as refused:
        compose(RunSettings.parse(named), simulation)
    return str(refused.value)


REFUSED = {
    "no such strategy": (
        {"strategy": "fedprox"},
        'strategy = "fedprox": must be one of scarlet, dsfl, fedavg, individual, scalefl, ',
    ),
    "no such model": ({"model": "vit"}, 'model = "vit": must be one of mlp, cnn, '),
    "no such model of several": ({"models": "cnn,vit"}, 'models = "vit": must be one of mlp, cnn, '),
    "no such metric": ({"data__metric": "f1"}, 'data.metric = "f1": must be one of auroc, kappa'),
    "no such encoding": ({"distillation__labels": "int4"}, "must be one of float32, float16, uint8"),
    "no such loss": ({"train__loss": "hinge"}, 'train.loss = "hinge": must be one of cross-entropy'),
    "no such optimizer": (
        {"train__optimizer": "lion"},
        'train.optimizer = "lion": must be one of sgd, adamw',
    ),
    "no such aggregator": ({"aggregation__labels": "median"}, "must be one of mean"),
    "early stopping without a server model": (
        {
            "strategy": "individual",
            "early_stopping__patience": 3,
            "early_stopping__metric": "server-accuracy",
        },
        'early-stopping.metric = "server-accuracy": strategy individual has no server model; allowed is '
        '"clients-accuracy"',
    ),
    "early stopping without a score": (
        {
            "strategy": "scalefl",
            "model": "elastic-cnn",
            "scalefl__calibration": "none",
            "early_stopping__patience": 3,
            "early_stopping__metric": "server-accuracy",
        },
        'the server evaluates nothing; allowed is "clients-accuracy"',
    ),
    "unequal networks averaged": (
        {"strategy": "fedavg", "models": "cnn,resnet20"},
        'models = "cnn,resnet20": strategy fedavg averages weights, so every client must run model = "cnn"',
    ),
    "unequal networks cut": (
        {"strategy": "depthfl", "model": "elastic-cnn", "models": "cnn"},
        'models = "cnn": strategy depthfl averages weights, so every client must run model = "elastic-cnn"',
    ),
    "submodels of a plain network": (
        {"strategy": "scalefl"},
        f'model = "cnn": strategy scalefl cuts submodels from an elastic network; allowed are '
        f"{', '.join(elastic_names())}",
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_things_that_do_not_fit_are_refused_by_name(config, message):
    assert message in refusal(**config)


@pytest.mark.parametrize("strategy", sorted(METHODS))
def test_every_method_of_submodels_takes_every_elastic_network_and_no_method_needs_more_than_a_name(strategy):
    method = METHODS[strategy]
    models = elastic_names() if method.exchanges is Exchanges.SUBMODELS else list(MODELS)
    for model in models:
        config = {"strategy": strategy, "model": model}
        assert compose(RunSettings.parse(config)) is method


def test_fedavg_takes_models_that_all_are_the_run_s_model():
    config = {"strategy": "fedavg", "model": "resnet20", "models": "resnet20,resnet20"}
    assert compose(RunSettings.parse(config)).name == "fedavg"


# --- idle settings -----------------------------------------------------------------------------------

IDLE = {
    "another method's table": (
        {"strategy": "fedavg", "scarlet__beta": 3.0},
        "scarlet.beta = 3.0: it is read by strategy scarlet",
    ),
    "soft labels where weights travel": (
        {"strategy": "fedavg", "distillation__epochs": 2},
        "distillation.epochs = 2: it is read by strategy scarlet, strategy dsfl",
    ),
    "levels of a whole network": (
        {"strategy": "fedavg", "model": "elastic-cnn", "levels__shares": "1,0,0,0"},
        "levels.shares = '1,0,0,0': it is read by model elastic-cnn",
    ),
    "levels of a plain network": (
        {"levels__plan": "parameters"},
        "levels.plan = 'parameters': it is read by",
    ),
    "adapters merged by nobody": (
        {"strategy": "fedavg", "model": "elastic-vlm", "lora__merge": "svd"},
        "lora.merge = 'svd': it is read by strategy scalefl, ",
    ),
    "a checkpoint that no network reads": (
        {"strategy": "scalefl", "model": "elastic-cnn", "pretrained": "/srv/cnn"},
        "pretrained = '/srv/cnn': it is read by model",
    ),
    "a text's length with images": (
        {"text__length": 32},
        "text.length = 32: it is read by model elastic-bert",
    ),
    "an aggregator of weights where labels travel": (
        {"aggregation__weights": "custom.aggregators:Median"},
        "custom.aggregators",
    ),
    "a split's own parameter": (
        {"data__split": "iid", "data__alpha": 1.0},
        "data.alpha = 1.0: it is read with data.split = dirichlet or dirichlet-unequal, not 'iid'",
    ),
    "a loss's own parameter": (
        {"strategy": "scalefl", "model": "elastic-cnn", "scalefl__exit_weights": "linear"},
        "scalefl.exit-weights = 'linear': it is read with scalefl.loss = paper, not 'mutual'",
    ),
    "an optimizer's own parameter": (
        {"train__optimizer": "adamw", "train__momentum": 0.9},
        "train.momentum = 0.9: it is read with train.optimizer = sgd, not 'adamw'",
    ),
    "budgets without a search": (
        {"strategy": "scalefl", "model": "elastic-cnn", "levels__budgets": "0.2,0.4,0.6,1"},
        "levels.budgets = '0.2,0.4,0.6,1': it is read with levels.plan = parameters or flops",
    ),
    "a loss of exits where there are none": (
        {"strategy": "heterofl", "model": "elastic-cnn", "scalefl__distillation": 0.5},
        "scalefl.distillation = 0.5: it is read by strategy scalefl, strategy depthfl",
    ),
    "a loss of exits where the method has its own": (
        {"strategy": "depthfl", "model": "elastic-cnn", "scalefl__loss": "paper"},
        "scalefl.loss = 'paper': it is read by strategy scalefl",
    ),
    "a custom table without its owner": (
        {"custom__nothing__rate": 0.5},
        "custom.nothing.rate = 0.5: no code of custom/ that this run uses has such a setting",
    ),
}


@pytest.mark.parametrize(("config", "message"), IDLE.values(), ids=IDLE)
def test_a_setting_that_nothing_reads_is_refused_and_says_what_would_read_it(config, message):
    assert message in refusal(**config)


def test_all_idle_settings_are_named_at_once():
    said = refusal(strategy="fedavg", scarlet__beta=3.0, dsfl__temperature=0.2)
    assert "scarlet.beta" in said
    assert "dsfl.temperature" in said


@pytest.mark.parametrize("key", ["levels.plan", "custom.of-a-node.rate"])
def test_a_real_node_may_train_a_model_that_the_run_does_not_name(key):
    settings = RunSettings.parse({key: "parameters"})
    assert compose(settings, False).name == "scarlet"


# --- facts, not names --------------------------------------------------------------------------------


def compared_names(tree):
    """Yield the texts that a syntax tree compares with something, or matches on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            sides += [
                each
                for side in sides
                if isinstance(side, ast.Tuple | ast.Set | ast.List)
                for each in side.elts
            ]
            yield from (side.value for side in sides if isinstance(side, ast.Constant))
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            yield node.value.value


def test_no_strategy_s_or_model_s_name_is_compared_anywhere():
    """Whoever compares a name knows a fact that the thing itself should state."""
    names = {*METHODS, *MODELS}
    packages = (*PACKAGES, "simulation")
    found = [
        f"{file.relative_to(REPOSITORY)}: {name}"
        for package in packages
        for file in (REPOSITORY / package).rglob("*.py")
        for name in compared_names(ast.parse(file.read_text()))
        if name in names
    ]
    assert found == []
