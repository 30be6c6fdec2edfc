import re
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import SettingsError
from protocol.settings import NodeSettings, RunSettings
from protocol.values import numbers, split_names

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def refusal(table, config):
    """Return the lines of the error, one a fault."""
    with pytest.raises(SettingsError) as error:
        table.parse(config)
    header, *lines = str(error.value).splitlines()
    assert header == "wrong settings"
    return [line.strip() for line in lines]


def assert_refused(table, config, key_and_value, allowed):
    (line,) = refusal(table, config)
    assert line.startswith(f"{key_and_value}: ")
    assert re.search(allowed, line.removeprefix(key_and_value))


# --- defaults --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written_defaults():
    """The run-config as Flower reads it."""
    """Return ours; those of the examples in ``custom/`` are theirs."""
    written = flatten_dict(tomllib.loads(PYPROJECT.read_text())["tool"]["flwr"]["app"]["config"])
    return {key: value for key, value in written.items() if not key.startswith("custom.")}


def test_defaults_are_those_of_pyproject(written_defaults):
    assert RunSettings().flat() == written_defaults


def test_defaults_have_the_types_they_have_in_pyproject(written_defaults):
    ours = {key: type(value) for key, value in RunSettings().flat().items()}
    assert ours == {key: type(value) for key, value in written_defaults.items()}


def test_nothing_said_means_the_defaults():
    assert RunSettings.parse({}) == RunSettings()


def test_flat_keys_are_kebab_case():
    word = "[a-z]+(-[a-z]+)*"
    for key in RunSettings().flat():
        assert re.fullmatch(rf"({word}\.)?{word}", key), key


# --- what is read is what was written ----------------------------------------------------------------

positive = st.floats(1e-6, 1e6)
MODELS = ("cnn", "elastic-bert", "custom.networks:GRU", "sklearn:RandomForestClassifier(max_depth=3)")
run_configs = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(["scarlet", "dsfl", "individual"]),
        "seed": st.integers(0, 2**63 - 1),
        "fraction-train": st.floats(0, 1, exclude_min=True),
        "models": st.lists(st.sampled_from(MODELS), max_size=3).map(",".join),
        "output-dir": st.sampled_from(["/srv/runs", "~/elsewhere"]),
        "resume": st.sampled_from(["", "auto", "/srv/runs/7", "~/runs/7"]),
        "data.alpha": positive,
        "data.max-samples": st.integers(0, 10**6),
        "levels.shares": st.sampled_from(["1", "0.5,0.5", "0,1,0", "0.1,0.2,0.7"]),
        "train.milestones": st.lists(st.integers(1, 999), max_size=3).map(
            lambda rounds: ",".join(map(str, sorted(rounds)))
        ),
        "scalefl.start": st.floats(0, 1),
        "public.size": st.integers(1000, 10**6),
        "public.subset-size": st.integers(1, 600),
        "train.momentum": st.floats(0, 1, exclude_max=True),
        "distillation.final-exchange": st.booleans(),
        "distillation.labels": st.sampled_from(["float32", "float16", "uint8"]),
        "scarlet.beta": positive,
        "scarlet.cache-duration": st.integers(0, 10**6),
        "early-stopping.patience": st.integers(0, 100),
    },
)


@given(run_configs)
def test_settings_survive_being_written_flat_and_read_again(config):
    settings = RunSettings.parse(config)
    assert RunSettings.parse(settings.flat()) == settings


@given(run_configs)
def test_what_is_set_replaces_the_default_and_nothing_else_changes(config):
    assert RunSettings.parse(config).flat() == {**RunSettings().flat(), **config}


def test_an_int_is_taken_where_a_float_is_wanted():
    learning_rate = RunSettings.parse({"train.learning-rate": 1}).train.learning_rate
    assert isinstance(learning_rate, float)
    assert learning_rate == 1.0


def test_the_home_folder_is_expanded_in_the_output_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert RunSettings.parse({"output-dir": "~/runs"}).output_path == Path("/home/someone/runs")


@pytest.mark.parametrize(
    ("text", "values"), [("", ()), ("1", (1.0,)), (" 0.25, .75 ,", (0.25, 0.75)), ("1e-3", (0.001,))]
)
def test_numbers_are_read_from_between_commas(text, values):
    assert numbers(text) == values


def test_names_are_split_at_commas_without_blanks():
    assert split_names(" cnn, resnet20,,cnn ") == ["cnn", "resnet20", "cnn"]


# --- refusals of a run -------------------------------------------------------------------------------

NAN, INFINITE = float("nan"), float("inf")


def one_of(names):
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}"


WRONG_RUNS = [
    # types
    ({"num-rounds": True}, "num-rounds = true", "integer"),
    ({"num-rounds": 3.0}, "num-rounds = 3.0", "integer"),
    ({"num-rounds": "3"}, 'num-rounds = "3"', "integer"),
    ({"train.learning-rate": "0.1"}, 'train.learning-rate = "0.1"', "number"),
    ({"train.learning-rate": True}, "train.learning-rate = true", "number"),
    ({"distillation.final-exchange": 1}, "distillation.final-exchange = 1", "boolean"),
    ({"models": 3}, "models = 3", "string"),
    # values
    ({"scarlet.beta": 0.0}, "scarlet.beta = 0.0", "greater than 0"),
    ({"scarlet.beta": -1.5}, "scarlet.beta = -1.5", "greater than 0"),
    ({"scarlet.cache-duration": -1}, "scarlet.cache-duration = -1", "greater than or equal to 0"),
    ({"fraction-train": 0.0}, "fraction-train = 0.0", "greater than 0"),
    ({"fraction-train": 1.5}, "fraction-train = 1.5", "less than or equal to 1"),
    ({"fraction-train": NAN}, "fraction-train = NaN", "1"),
    ({"seed": -1}, "seed = -1", "greater than or equal to 0"),
    ({"train.momentum": 1.0}, "train.momentum = 1.0", "less than 1"),
    ({"train.batch-size": 0}, "train.batch-size = 0", "greater than or equal to 1"),
    ({"train.learning-rate": NAN}, "train.learning-rate = NaN", "finite"),
    ({"train.learning-rate": INFINITE}, "train.learning-rate = Infinity", "finite"),
    ({"data.client-test-fraction": 1.0}, "data.client-test-fraction = 1.0", "less than 1"),
    (
        {"data.source": "café"},
        'data.source = "café"',
        "must be digits, nodes, an absolute path .* a Hugging Face hub id .* or a reference",
    ),
    ({"strategy": "os:system"}, 'strategy = "os:system"', "a reference custom.module:attribute$"),
    ({"strategy": "custom:FEDPROX:"}, 'strategy = "custom:FEDPROX:"', "a plain name, a reference"),
    (
        {"train.loss": "torch.nn:CrossEntropyLoss"},
        'train.loss = "torch.nn:CrossEntropyLoss"',
        "a plain name, a reference custom",
    ),
    ({"data.metric": "sklearn:f1_score"}, 'data.metric = "sklearn:f1_score"', "a plain name"),
    ({"model": "torch:nn"}, 'model = "torch:nn"', "one of a library: torchvision:…, timm:…"),
    ({"models": "cnn, os:system"}, 'models = "cnn, os:system"', "'os:system': must be a plain name"),
    (
        {"uplink": "custom.noise:noise, os:x"},
        'uplink = "custom.noise:noise, os:x"',
        "must be a plain name",
    ),
    ({"public.subset-size": 601}, "public.subset-size = 601", "at most public.size = 600"),
    ({"output-dir": "runs"}, 'output-dir = "runs"', "absolute path or start with ~"),
    ({"output-dir": "~nobody-has-this-name/runs"}, 'output-dir = "~nobody-has-this-name/runs"', "absolute"),
    ({"resume": "runs/7"}, 'resume = "runs/7"', '"", "auto" or an absolute path'),
    # levels
    ({"levels.shares": "0.5,0.6"}, 'levels.shares = "0.5,0.6"', "sum to 1; these sum to 1.1"),
    ({"levels.shares": "1.5,-0.5"}, 'levels.shares = "1.5,-0.5"', "at least 0"),
    ({"levels.shares": ""}, 'levels.shares = ""', "sum to 1; these sum to 0"),
    ({"levels.shares": "0.5;0.5"}, 'levels.shares = "0.5;0.5"', "numbers separated by commas"),
    ({"levels.shares": "nan,1"}, 'levels.shares = "nan,1"', "numbers separated by commas"),
    ({"levels.budgets": "0.5,0.25,1"}, 'levels.budgets = "0.5,0.25,1"', "increase"),
    ({"levels.budgets": "0,1"}, 'levels.budgets = "0,1"', "be above 0"),
    ({"levels.budgets": "0.5"}, 'levels.budgets = "0.5"', "the last must be 1"),
    (
        {"levels.widths": "0,1", "levels.exits": "4,8"},
        'levels.widths = "0,1"',
        "above 0 and at most 1",
    ),
    ({"levels.widths": "0.5,1.5"}, 'levels.widths = "0.5,1.5"', "above 0 and at most 1"),
    ({"levels.widths": "0.7,0.5,1"}, 'levels.widths = "0.7,0.5,1"', "must not decrease"),
    ({"levels.widths": "0.5,0.7"}, 'levels.widths = "0.5,0.7"', "the last must be 1"),
    ({"levels.exits": "6,4,8"}, 'levels.exits = "6,4,8"', "increasing"),
    ({"levels.exits": "4,4"}, 'levels.exits = "4,4"', "increasing"),
    ({"levels.exits": "0,8"}, 'levels.exits = "0,8"', "from 1"),
    ({"levels.exits": "4.5,8"}, 'levels.exits = "4.5,8"', "numbers of blocks"),
    ({"levels.exits": "4,inf"}, 'levels.exits = "4,inf"', "numbers separated by commas"),
    (
        {"levels.widths": "0.5,1", "levels.exits": "8"},
        'levels.widths = "0.5,1", levels.exits = "8"',
        "must have one value per level each",
    ),
    ({"train.milestones": "20,10"}, 'train.milestones = "20,10"', "increasing"),
    ({"train.milestones": "0"}, 'train.milestones = "0"', "from 1"),
    ({"train.decay": 0.0}, "train.decay = 0.0", "greater than 0"),
    ({"scalefl.start": 1.5}, "scalefl.start = 1.5", "less than or equal to 1"),
    ({"scalefl.loss": "mine"}, 'scalefl.loss = "mine"', "'paper', 'official' or 'mutual'"),
    (
        {"scalefl.calibration": "withheld", "data.withheld-size": 1},
        'scalefl.calibration = "withheld"',
        "data.withheld-size of at least 2, it is 1",
    ),
    # keys
    ({"scarlet.betta": 2.0}, "scarlet.betta = 2.0", "no such setting; there are scarlet.beta, "),
    ({"rounds": 3}, "rounds = 3", "no such setting; there are strategy, .* num-rounds"),
    ({"num_rounds": 3}, "num_rounds = 3", "no such setting"),
    ({"train.batch_size": 4}, "train.batch_size = 4", "no such setting; there are .* train.batch-size"),
    ({"data": 3}, "data = 3", "a table, whose settings are data.source, "),
    ({"data": 3, "data.alpha": 1.0}, "data.alpha = 1.0", "data = 3 is not a table"),
    ({"data.alpha": 1.0, "data": 3}, "data = 3", "a table, whose settings are .*data.alpha"),
    ({"data.alpha.x": 1}, 'data.alpha = {"x": 1}', "number"),
]


@pytest.mark.parametrize(
    ("config", "key_and_value", "allowed"), WRONG_RUNS, ids=lambda value: str(value)[:40]
)
def test_a_wrong_run_setting_is_refused_with_its_key_its_value_and_what_is_allowed(
    config, key_and_value, allowed
):
    assert_refused(RunSettings, config, key_and_value, allowed)


def test_all_faults_are_named_at_once():
    wrong = {
        "num-rounds": 0,
        "models": "a b",
        "resume": "runs/7",
        "public.subset-size": 601,
        "scarlet.beta": 0.0,
        "scarlet.betta": 2.0,
    }
    keys = {line.split(" = ")[0] for line in refusal(RunSettings, wrong)}
    assert keys == wrong.keys()


# --- nodes -------------------------------------------------------------------------------------------


def test_a_node_without_a_name_is_named_after_its_partition():
    assert NodeSettings.parse({"partition-id": 3, "num-partitions": 10}).name == "client-0003"


def test_a_node_with_a_name_keeps_it_beside_its_partition():
    node = NodeSettings.parse({"client-name": "hospital-a", "partition-id": 3, "num-partitions": 10})
    assert node.name == "hospital-a"


@pytest.mark.parametrize(
    ("config", "simulated"),
    [({"client-name": "hospital-a"}, False), ({"partition-id": 0, "num-partitions": 1}, True)],
)
def test_only_a_node_without_a_name_counts_as_simulated(config, simulated):
    assert NodeSettings.parse(config).simulated is simulated


@pytest.mark.parametrize("name", ["a", "7", "Hospital-A.ward_3", "x" * 64])
def test_plain_client_names_are_taken(name):
    assert NodeSettings.parse({"client-name": name}).name == name


@pytest.mark.parametrize("name", ["../x", "..", ".hidden", "-rf", "a/b", "a\\b", "a b", "a\n", "ä", "x" * 65])
def test_client_names_that_are_no_plain_folder_name_are_refused(name):
    (line,) = refusal(NodeSettings, {"client-name": name})
    assert line.startswith("client-name = ")
    assert "letters, digits, dots, dashes and underscores, at most 64" in line


WRONG_NODES = [
    ({}, 'client-name = ""', "needs a name that it keeps"),
    ({"partition-id": 3}, "partition-id = 3", "num-partitions"),
    ({"num-partitions": 3}, "num-partitions = 3", "partition-id, from 0 to 2"),
    ({"partition-id": 3, "num-partitions": 3}, "partition-id = 3", "below num-partitions = 3"),
    ({"partition-id": 4, "num-partitions": 3}, "partition-id = 4", "below num-partitions = 3"),
    ({"client-name": "a", "partition-id": 3}, "partition-id = 3", "num-partitions"),
    ({"partition-id": -1, "num-partitions": 3}, "partition-id = -1", "greater than or equal to 0"),
    ({"partition-id": 1.0, "num-partitions": 3}, "partition-id = 1.0", "integer"),
    ({"client-name": 5}, "client-name = 5", "string"),
    ({"client-name": "a", "model": "os:x"}, 'model = "os:x"', "one of a library"),
    ({"client-name": "a", "level": 0}, "level = 0", 'must be a number from 1, or "auto"'),
    ({"client-name": "a", "level": True}, "level = true", 'must be a number from 1, or "auto"'),
    ({"client-name": "a", "level": "big"}, 'level = "big"', 'must be a number from 1, or "auto"'),
    ({"client-name": "a", "memory-budget": 0.0}, "memory-budget = 0.0", "greater than 0"),
    (
        {"client-name": "a", "seconds-per-round-budget": INFINITE},
        "seconds-per-round-budget = Infinity",
        "finite",
    ),
    ({"client-name": "a", "device": "gpu"}, 'device = "gpu"', "'auto', 'cpu', 'cuda'"),
    ({"client-name": "a", "state-dir": "state"}, 'state-dir = "state"', "absolute path"),
    ({"client-name": "a", "threads": 0}, "threads = 0", "greater than or equal to 1"),
    ({"client-nme": "a"}, 'client-nme = "a"', "no such setting; there are client-name, "),
    ({"client_name": "a"}, 'client_name = "a"', "no such setting; there are client-name, "),
]


@pytest.mark.parametrize(
    ("config", "key_and_value", "allowed"), WRONG_NODES, ids=lambda value: str(value)[:40]
)
def test_a_wrong_node_setting_is_refused_with_its_key_its_value_and_what_is_allowed(
    config, key_and_value, allowed
):
    assert_refused(NodeSettings, config, key_and_value, allowed)
