"""A user's package, made by a test, in which references resolve while the test runs."""

import importlib
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol import references

_NUMBERS = itertools.count()


@contextmanager
def user_package(folder: Path, modules: Mapping[str, str]) -> Iterator[str]:
    """Write a package of modules, open it, and yield its name, which no other test's has.

    Parameters
    ----------
    folder
        Where to write it.
    modules
        Source text by name.
    """
    name = f"users{next(_NUMBERS)}"
    package = folder / name
    package.mkdir()
    for module, text in {"__init__": "", **modules}.items():
        (package / f"{module}.py").write_text(textwrap.dedent(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        patch.setattr(references, "_open_packages", dict(references._open_packages))
        references.open_package(name)
        yield name
        for module in [one for one in sys.modules if one.split(".")[0] == name]:
            del sys.modules[module]
