"""The README tells the truth."""

import re
import tomllib

import pytest

from docs.settings_table import README, in_readme
from protocol.settings import NodeSettings, RunSettings
from strategies import compose
from tests.support.processes import PROJECT

TEXT = README.read_text()


def test_the_settings_table_is_what_the_settings_say():
    assert in_readme(TEXT) == TEXT, "run `make docs`"


def test_every_setting_of_a_node_is_named():
    for field in NodeSettings.model_fields.values():
        assert f"`{field.alias}`" in TEXT


def test_every_make_target_named_exists():
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
    for target in re.findall(r"`make ([\w-]+)[` ]", TEXT):
        assert target in targets


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("http") or (PROJECT / link).exists(), link


@pytest.mark.parametrize("recipe", sorted((PROJECT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_is_a_valid_run_config_and_says_what_it_is_for(recipe):
    config = tomllib.loads(recipe.read_text())
    flat = {}
    for key, value in config.items():
        flat |= (
            {f"{key}.{name}": inner for name, inner in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
    assert compose(RunSettings.parse(flat))
    first = recipe.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert re.search(r"minute", recipe.read_text().split("\n\n")[0]), "the expected time stands in the head"


PEERS = sorted(
    path.stem.removeprefix("fedavg-")
    for path in (PROJECT / "recipes").glob("fedavg-*.toml")
    if (PROJECT / "recipes" / f"scarlet-{path.stem.removeprefix('fedavg-')}.toml").exists()
)


@pytest.mark.parametrize("name", PEERS)
def test_a_peers_recipe_trains_alike_on_the_same_data(name):
    ours, peer = (
        tomllib.loads((PROJECT / "recipes" / f"{strategy}-{name}.toml").read_text())
        for strategy in ("scarlet", "fedavg")
    )
    assert peer["strategy"] == "fedavg"
    for key in ("model", "num-rounds", "data", "public", "train"):
        assert peer[key] == ours[key]


def test_every_recipe_is_named_in_the_readme_and_every_one_named_is_there():
    named = set(re.findall(r"`((?:scarlet|fedavg|scalefl)-[a-z0-9-]+)`", TEXT))
    recipes = {path.stem: path.read_text() for path in (PROJECT / "recipes").glob("*.toml")}
    assert {name for name, text in recipes.items() if "/path/to/" in text} <= named
    assert {name for name in named if not name.endswith(("smallest", "largest"))} <= recipes.keys()


def test_the_commands_of_the_readme_give_valid_run_configs():
    for given in re.findall(r'--run-config "([^"…]+)"', TEXT):
        pairs = re.findall(r"([\w.-]+)=('[^']*'|\S+)", given)
        flat = {key: tomllib.loads(f"value = {value}")["value"] for key, value in pairs}
        assert compose(RunSettings.parse(flat))
