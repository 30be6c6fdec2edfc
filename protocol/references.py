"""What a setting may name: something built in, the user's own code, or a model of a library.

- ``scarlet``: built in, by a plain name.
- ``custom.fedprox:FEDPROX``: an attribute of a module in the user's folder ``custom/``.
- ``torchvision:mobilenet_v3_small``: a model in the registry of one of a few libraries.

Settings come from whoever may start a run, so they must not be able to make a node import anything else that
is installed on it.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from protocol.errors import MotleyError, SettingsError
from protocol.tables import Table

T = TypeVar("T")

CUSTOM = "custom"
"""The folder of the user's own code, beside ours in the bundle that nodes receive."""

_OURS = Path(__file__).parents[1]
_PLAIN = re.compile(r"[a-z0-9][a-z0-9-]*")
_REFERENCE = re.compile(r"(?P<package>[A-Za-z_]\w*)(?P<rest>(\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")
_LIBRARY = re.compile(r"(?P<library>[a-z]+):(?P<name>\S.*)")

LIBRARIES = ("torchvision", "timm", "transformers", "sklearn", "xgboost")
"""The libraries whose models may be named."""

CHECKPOINTS = "transformers"
"""The library whose models are named by the place of their checkpoint."""

PACKAGES = ("client_app", "data", "learning", "models", "protocol", "server_app", "strategies")
"""The app's own packages, as they are in the bundle."""

_open_packages: dict[str, Path] = {CUSTOM: _OURS} if (_OURS / "pyproject.toml").is_file() else {}
"""The packages that references may point into, and the folder that each must lie in.

There is no ``custom`` if the app is installed as a library."""


def open_package(name: str) -> None:
    """Allow references into the package of another Flower project, which is built on this app.

    Raises
    ------
    SettingsError
        If there is no such package.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SettingsError(f"package {name!r}: not found on the path, or it has no __init__.py")
    _open_packages[name] = Path(spec.origin).parents[1]


def open_packages() -> tuple[str, ...]:
    """Return the names of the packages that references may point into."""
    return tuple(sorted(_open_packages))


def bundle_folders() -> tuple[Path, ...]:
    """Return the folders that the app, and the packages that references may point into, lie in."""
    return tuple(sorted({_OURS, *_open_packages.values()}))


def is_reference(name: str) -> bool:
    """Tell whether a name is a reference into a user's package."""
    match = _REFERENCE.fullmatch(name)
    return match is not None and match["package"] in _open_packages


def library_of(name: str) -> tuple[str, str] | None:
    """Split ``"torchvision:resnet18"`` into library and name; None for any other name."""
    match = _LIBRARY.fullmatch(name)
    if match is None or match["library"] not in LIBRARIES:
        return None
    return match["library"], match["name"]


def checkpoint_in(name: str) -> str:
    """Return the place of the checkpoint in ``"transformers:/srv/vit"``; empty for any other name."""
    library = library_of(name)
    return library[1] if library is not None and library[0] == CHECKPOINTS else ""


def check_name(name: str, libraries: bool = False) -> str:
    """Return a name if its form is valid; nothing is looked up or imported.

    Parameters
    ----------
    name
        The value of a setting.
    libraries
        Whether it may name a model of a library.

    Raises
    ------
    ValueError
        If the form is invalid; the message says which forms are allowed.
    """
    if _PLAIN.fullmatch(name) or is_reference(name) or (libraries and library_of(name)):
        return name
    packages = " or ".join(f"{package}.module:attribute" for package in open_packages())
    of_library = f", or one of a library: {', '.join(f'{library}:…' for library in LIBRARIES)}"
    raise ValueError(f"must be a plain name, a reference {packages}{of_library if libraries else ''}")


def resolve(setting: str, reference: str) -> object:
    """Return the attribute that a reference names.

    Parameters
    ----------
    setting
        The setting's key, for error messages.
    reference
        ``package.module:attribute``, with a package that references may point into.

    Raises
    ------
    SettingsError
        If references may not point into the package, it does not lie beside the app, or the module or
        attribute does not exist or cannot be imported. The message names module, attribute and what exists.
    """
    if not is_reference(reference):
        allowed = ", ".join(f"{package}.…" for package in open_packages())
        raise SettingsError(f'{setting} = "{reference}": references may only point into {allowed}')
    place, _, name = reference.partition(":")
    module = _module(setting, reference, place)
    found = getattr(module, name, None)
    if found is None or isinstance(found, ModuleType) or not _is_of_a_bundle(found):
        raise SettingsError(
            f'{setting} = "{reference}": module {place} defines no {name}; it defines {_defined(module)}'
        )
    return found


def tables_beside(reference: str) -> tuple[type[Table], ...]:
    """Return the tables of settings, classes with a ``place``, in a reference's module.

    Those that it imports count too: code that builds on another's reads its settings.
    """
    module = sys.modules.get(reference.partition(":")[0])
    if module is None:
        return ()
    return tuple(
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Table) and kind.place
    )


class Registry(Generic[T]):
    """All objects of one kind (methods, networks, losses, …) that a setting can name.

    Parameters
    ----------
    setting
        The setting's key, for error messages.
    own
        The built-in objects, by plain name.
    accept
        Checks, and converts if necessary, the object that a reference names; it gets the object and the
        reference. It raises ``TypeError`` with a message that says what the object must be.
    libraries
        By library: a function of a model's name and the setting's key that finds the model in the library's
        registry, or raises ``SettingsError``.
    """

    def __init__(
        self,
        setting: str,
        own: Mapping[str, T],
        accept: Callable[[object, str], T],
        libraries: Mapping[str, Callable[[str, str], T]] | None = None,
    ) -> None:
        self.setting = setting
        self.own = own
        self._accept = accept
        self._libraries = libraries or {}
        self._find = cache(self._found)

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def find(self, name: str, setting: str = "") -> T:
        """Return the object of a name; looked up again, it is the same object.

        Parameters
        ----------
        name
            A plain name, a reference, or a library's model.
        setting
            The key of the setting that names it, if it is not the registry's usual one.

        Raises
        ------
        SettingsError
            If there is no such object, or it is of another kind.
        """
        return self._find(name, setting or self.setting)

    def _found(self, name: str, setting: str) -> T:
        if name in self.own:
            return self.own[name]
        if (library := library_of(name)) is not None and library[0] in self._libraries:
            return self._libraries[library[0]](library[1], setting)
        if ":" not in name:
            raise SettingsError(f'{setting} = "{name}": must be {self.allowed()}')
        found = resolve(setting, name)
        try:
            return self._accept(found, name)
        except TypeError as error:
            raise SettingsError(f'{setting} = "{name}": {error}') from error

    def allowed(self) -> str:
        """Return the allowed names, for error messages."""
        libraries = "".join(f", {library}:…" for library in self._libraries)
        packages = "".join(f", {package}.module:attribute" for package in open_packages())
        return f"one of {', '.join(self.own)}{libraries}{packages}"


def _module(setting: str, reference: str, place: str) -> ModuleType:
    """Import a module, after checking that its package is the one that lies beside the app."""
    package = place.split(".", maxsplit=1)[0]
    try:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SettingsError(
                f'{setting} = "{reference}": there is no package {package} with an __init__.py beside the app'
            )
        if Path(spec.origin).parents[1] != _open_packages[package]:
            raise SettingsError(
                f'{setting} = "{reference}": package {package} lies in {Path(spec.origin).parents[1]}, not '
                "beside the app: it did not come with this run"
            )
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise SettingsError(f'{setting} = "{reference}": module {place} imports {error}') from error
        raise SettingsError(
            f'{setting} = "{reference}": there is no module {error.name}; {package} has '
            f"{', '.join(_modules(package)) or 'none'}"
        ) from error
    except MotleyError:
        raise
    except Exception as error:  # a user's module may raise anything as it is imported
        raise SettingsError(
            f'{setting} = "{reference}": module {place} cannot be imported: {type(error).__name__}: {error}'
        ) from error


def _modules(package: str) -> list[str]:
    folder = _open_packages[package] / package
    return sorted(
        ".".join(file.relative_to(folder.parent).with_suffix("").parts)
        for file in folder.rglob("*.py")
        if file.name != "__init__.py"
    )


def _is_of_a_bundle(thing: object) -> bool:
    """Tell whether a function or class, or an object's class, is defined in the bundle."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return module.split(".")[0] in (*PACKAGES, *_open_packages)


def _defined(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and _is_own(value, module)
    ]
    return ", ".join(sorted(names)) or "nothing"


def _is_own(value: object, module: ModuleType) -> bool:
    """Tell whether a module's attribute is defined there, not imported from elsewhere."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__ == module.__name__
    return _is_of_a_bundle(value)
