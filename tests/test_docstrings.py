"""Docstrings: whoever calls a public function with three or more parameters finds each of them explained.

A method that implements a contract need not repeat it: the contract is a base class or a protocol, of ours or
of Flower, in which the method of that name explains its parameters. Modules are parsed, not imported.
"""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_layers import LAYERS, REPOSITORY

FEW = 3
MODULES = sorted(
    file.relative_to(REPOSITORY).as_posix()
    for package in [*LAYERS, "deploy"]
    for file in (REPOSITORY / package).rglob("*.py")
)
SECTION = re.compile(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", re.DOTALL | re.MULTILINE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    given = function.args
    named = [each.arg for each in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
    return [name for name in named if name not in ("self", "cls")]


def explained(docstring: str) -> set[str]:
    """Return the names that stand at the margin of a docstring's section of parameters."""
    section = SECTION.search(inspect.cleandoc(docstring))
    if section is None:
        return set()
    heads = [line.partition(":")[0] for line in section[1].splitlines() if line and not line[0].isspace()]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def unexplained(function: Function, documented: ast.AST) -> list[str]:
    docstring = ast.get_docstring(documented) or ""  # type: ignore[arg-type]
    return [name for name in parameters(function) if name not in explained(docstring)]


def methods(kind: ast.ClassDef) -> dict[str, Function]:
    return {node.name: node for node in kind.body if isinstance(node, Function)}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def file_of(module: str) -> Path | None:
    """Return the file of a module of ours or of Flower; nothing is imported."""
    package, *path = module.split(".")
    root = REPOSITORY
    if package == "flwr":
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parents[1]
    elif package not in LAYERS:
        return None
    place = root.joinpath(package, *path)
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def class_named(name: str, file: Path) -> ast.ClassDef | None:
    """Return the class that a name stands for in a module, which may have imported it."""
    for node in parsed(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                module = node.module or ""
                if node.level:
                    module = ".".join([*file.parts[file.parts.index("flwr") : -node.level], module])
                source = file_of(module.rstrip("."))
                return None if source is None else class_named(alias.name, source)
    return None


@cache
def protocols() -> list[ast.ClassDef]:
    return [
        node
        for module in MODULES
        for node in parsed(REPOSITORY / module).body
        if isinstance(node, ast.ClassDef) and "Protocol" in [ast.unparse(base) for base in node.bases]
    ]


def contracts(kind: ast.ClassDef, file: Path) -> Iterator[ast.ClassDef]:
    """Yield the classes that a class inherits from, and the protocols all methods of which it has."""
    for base in kind.bases:
        found = class_named(ast.unparse(base), file)
        if found is not None:
            yield found
            yield from contracts(found, file)
    for protocol in protocols():
        if protocol is not kind and methods(protocol).keys() <= methods(kind).keys():
            yield protocol


def implements(method: Function, kind: ast.ClassDef, file: Path) -> bool:
    """Tell whether a contract has this method with these parameters.

    Ours must explain them; Flower's own docstrings are Flower's.
    """
    for contract in contracts(kind, file):
        promised = methods(contract).get(method.name)
        if promised is not None and parameters(promised) == parameters(method):
            ours = contract in protocols()
            return not ours or not unexplained(promised, promised)
    return False


def lacking(module: str) -> Iterator[str]:
    """Yield the public functions and classes of a module that do not explain all parameters."""
    file = REPOSITORY / module
    for node in parsed(file).body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield from lines(node, node, node.name)
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for name, method in methods(node).items():
            if name == "__init__":
                yield from lines(method, node, node.name)
            elif not name.startswith("_") and not implements(method, node, file):
                yield from lines(method, method, f"{node.name}.{name}")


def lines(function: Function, documented: ast.AST, name: str) -> Iterator[str]:
    missing = unexplained(function, documented)
    if len(parameters(function)) >= FEW and missing:
        yield f"{name}: {', '.join(missing)}"


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_of_a_public_function_with_three_or_more_is_explained(module: str) -> None:
    assert list(lacking(module)) == []


def test_an_unexplained_parameter_is_found() -> None:
    function = ast.parse(
        'def f(a, b, *, c):\n    """Do.\n\n    Parameters\n    ----------\n    a, b\n        Two.\n    """'
    )
    assert unexplained(function.body[0], function.body[0]) == ["c"]  # type: ignore[arg-type]


def test_a_method_of_a_contract_is_exempt_and_another_is_not() -> None:
    file = REPOSITORY / "strategies/weights/fedavg.py"
    server = class_named("FedAvgServer", file)
    assert server is not None
    assert implements(methods(server)["accept"], server, file)
    assert not implements(methods(server)["_paper_bytes"], server, file)


def test_a_method_of_flower_s_own_interface_is_exempt() -> None:
    file = REPOSITORY / "simulation/grid.py"
    grid = class_named("InProcessGrid", file)
    assert grid is not None
    assert implements(methods(grid)["create_message"], grid, file)
