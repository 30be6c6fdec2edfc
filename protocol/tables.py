"""A table of settings, read from Flower's flat dictionaries; errors say what is wrong and what is allowed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from protocol.errors import SettingsError


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Table(BaseModel):
    """A table of settings: frozen, strict about types, without unknown keys.

    A table for code in ``custom/`` states its place: ``place = "custom.fedprox"`` stands for the settings
    under ``[tool.flwr.app.config.custom.fedprox]``.
    """

    place: ClassVar[str] = ""

    model_config = ConfigDict(
        alias_generator=_kebab, extra="forbid", frozen=True, populate_by_name=True, strict=True
    )

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Read one of Flower's flat dictionaries, for example ``context.run_config``.

        Raises
        ------
        SettingsError
            Naming each wrong key, its value and what is allowed.
        """
        try:
            return cls.model_validate(_unflatten(config), by_alias=True, by_name=False)
        except ValidationError as error:
            within = f"{cls.place}." if cls.place else ""
            raise _refusal(f"{_explain(cls, fault, within)}" for fault in error.errors()) from None

    def flat(self) -> dict[str, Any]:
        """Return the settings as Flower writes them: kebab-case keys, tables joined by dots."""
        return _flatten(self.model_dump(by_alias=True))


def _refusal(lines: Iterable[str]) -> SettingsError:
    return SettingsError("wrong settings\n" + "\n".join(f"  {line}" for line in lines))


def _explain(table: type[Table], fault: ErrorDetails, within: str) -> str:
    """Describe an error by its key, its value and what is allowed; ``within`` is put before each key."""
    *tables, last = (str(part) for part in fault["loc"] or ("",))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return message  # of a whole table: it names the keys itself
    if fault["type"] == "extra_forbidden":
        message = f"there is no such setting; there are {_known_keys(table, tables, within)}"
    elif fault["type"] == "model_type":
        message = f"this is a table, whose settings are {_known_keys(table, [*tables, last], within)}"
    return f"{within}{'.'.join([*tables, last])} = {_shown(fault['input'])}: {message}"


def _known_keys(table: type[Table], tables: Sequence[str], within: str) -> str:
    """List the full keys of a table; ``tables`` is its place in the tree."""
    place: Any = table
    for name in tables:
        place = next(field.annotation for field in place.model_fields.values() if field.alias == name)
    return ", ".join(within + ".".join([*tables, field.alias]) for field in place.model_fields.values())


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        table = tree
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise _refusal([f"{key} = {_shown(value)}: {name} = {_shown(table)} is not a table"])
        table[last] = value
    return tree


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class OpenTable(Table):
    """A table with any content, such as ``custom``: the code that it belongs to checks the types.

    Its hash is that of its content, as for other tables.
    """

    model_config = ConfigDict(extra="allow")

    def at(self, place: Sequence[str]) -> dict[str, Any]:
        """Return the settings below a place as a flat dictionary; empty if there are none."""
        tree: Any = self.model_extra or {}
        for name in place:
            tree = tree.get(name, {}) if isinstance(tree, dict) else {}
        return _flatten(tree) if isinstance(tree, dict) else {}

    def __hash__(self) -> int:
        return hash(json.dumps(self.model_extra, sort_keys=True, default=str))
