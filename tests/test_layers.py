"""Who may import whom: server_app, client_app → strategies → learning → models, data → protocol.

``custom`` is the user's, and imported by reference alone; ``simulation`` stands on top; ``deploy`` stands
alone.
"""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LAYERS = {
    "protocol": 0,
    "models": 1,
    "data": 1,
    "learning": 2,
    "strategies": 3,
    "client_app": 4,
    "server_app": 4,
    "custom": 4,
    "simulation": 5,
}
NEVER_IMPORTED = {"tests", "benchmarks", "deploy"}
HEAVY = {"transformers", "peft", "timm"}
MODULES = sorted(
    file.relative_to(REPOSITORY).as_posix()
    for package in LAYERS
    for file in (REPOSITORY / package).rglob("*.py")
)
MATHEMATICS = [
    "strategies/soft_labels/acknowledgements.py",
    "strategies/soft_labels/cache.py",
    "strategies/soft_labels/scarlet.py",
    *(module for module in MODULES if module.startswith("models/")),
]


def imported(nodes):
    """Return the top-level names that import statements among syntax nodes name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that a reader sees the layer"
            names.add((node.module or "").split(".")[0])
    return names


def for_types(node):
    """Tell whether a node is read by type checkers alone."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def outside_functions(tree):
    """Yield the nodes that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not for_types(node):
            yield node
            yield from outside_functions(node)


def tree_of(module):
    return ast.parse((REPOSITORY / module).read_text(), module)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_its_own_package_and_lower_layers_only(module):
    package = module.split("/")[0]
    lower = {name for name, layer in LAYERS.items() if layer < LAYERS[package]}
    ours = imported(ast.walk(tree_of(module))) & (LAYERS.keys() | NEVER_IMPORTED)
    assert ours <= (lower - {"custom"}) | {package}


@pytest.mark.parametrize("module", MODULES)
def test_a_node_that_trains_a_small_network_never_imports_language_libraries(module):
    assert not imported(outside_functions(tree_of(module))) & HEAVY


def test_what_deploys_the_app_does_not_import_it():
    """It must not: the app's code comes with each run's bundle, and a process forks from the launcher's."""
    modules = [file.relative_to(REPOSITORY).as_posix() for file in (REPOSITORY / "deploy").rglob("*.py")]
    assert "deploy/warm_executor.py" in modules
    ours = LAYERS.keys() | {"tests", "benchmarks"}
    assert [module for module in modules if imported(ast.walk(tree_of(module))) & ours] == []


def test_benchmarks_import_no_tests():
    modules = [file.relative_to(REPOSITORY).as_posix() for file in (REPOSITORY / "benchmarks").rglob("*.py")]
    assert "benchmarks/warm_start.py" in modules
    assert [module for module in modules if "tests" in imported(ast.walk(tree_of(module)))] == []


@pytest.mark.parametrize("module", MATHEMATICS)
def test_the_mathematics_knows_nothing_of_flower(module):
    assert not {name for name in imported(ast.walk(tree_of(module))) if name.startswith("flwr")}


def test_every_package_has_modules():
    assert {module.split("/")[0] for module in MODULES} == LAYERS.keys()
