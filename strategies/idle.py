"""Unused settings: a setting that was changed but that nothing in the run reads is refused."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from protocol.errors import SettingsError
from protocol.references import bundle_folders, is_reference
from protocol.settings import DEFAULTS, RunSettings
from protocol.tables import Table

_OWNED = frozenset({"distillation", "scarlet", "dsfl", "levels", "scalefl", "lora", "vlm", "text"})
"""The tables that only some methods or models read; every run reads the others."""
_OWNED_KEYS = frozenset({"aggregation.labels", "aggregation.weights", "uplink", "pretrained"})
_OF_MODELS = frozenset({"levels", "lora", "vlm", "text", "pretrained"})
"""What models read; a real node may train a model that the run's settings do not name."""
_CUSTOM = "custom."


@dataclass(frozen=True)
class Reader:
    """The settings that a run reads beside those that every run reads."""

    keys: frozenset[str]
    """Tables, or single keys."""
    tables: tuple[type[Table], ...]
    """Tables of the user's own code."""

    def reads(self, key: str) -> bool:
        """Tell whether a key, such as ``scarlet.beta``, is read."""
        return key in self.keys or key.split(".", maxsplit=1)[0] in self.keys


def refuse_idle(
    settings: RunSettings, reader: Reader, would_read: Mapping[str, Sequence[str]], models_known: bool
) -> None:
    """Refuse settings that differ from their default and that nothing in the run reads.

    Parameters
    ----------
    settings
        Of the run.
    reader
        What the run reads.
    would_read
        By table or key: the methods and models that read it, for the error message.
    models_known
        Whether all models of the federation are named in the settings.

    Raises
    ------
    SettingsError
        If there are any; the message names each key, its value and what would read it.
    """
    lines = [
        *_idle(settings, reader, would_read, models_known),
        *_idle_custom(settings, reader, models_known),
    ]
    if lines:
        raise SettingsError(
            "settings that nothing in this run reads\n" + "\n".join(f"  {line}" for line in lines)
        )


def _idle(
    settings: RunSettings, reader: Reader, would_read: Mapping[str, Sequence[str]], models_known: bool
) -> Iterator[str]:
    flat, shipped = settings.flat(), bundle_defaults()
    for key, default in DEFAULTS.flat().items():
        table = key.split(".")[0]
        if flat[key] in (default, shipped.get(key, default)):
            continue
        owned = table in _OWNED or key in _OWNED_KEYS
        if table in _OF_MODELS and not models_known:
            continue
        if owned and not reader.reads(key):
            readers = would_read.get(key) or would_read.get(table) or ["nothing"]
            yield f"{key} = {flat[key]!r}: it is read by {', '.join(dict.fromkeys(readers))}"
        elif condition := _condition(key):
            other, *values = condition
            if flat[other] not in values and not is_reference(str(flat[other])):
                wanted = " or ".join(values)
                yield f"{key} = {flat[key]!r}: it is read with {other} = {wanted}, not {flat[other]!r}"


def _idle_custom(settings: RunSettings, reader: Reader, models_known: bool) -> Iterator[str]:
    """Yield settings under ``custom`` that no table in the run has, and validate the others.

    A real node's own model or data source may have a table that only the node knows.
    """
    owned = tuple(f"{table.place}." for table in reader.tables)
    for table in reader.tables:
        settings.of(table)
    shipped = bundle_defaults()
    for key, value in settings.flat().items():
        mine = models_known and key.startswith(_CUSTOM) and not key.startswith(owned)
        if mine and value != shipped.get(key):
            yield f"{key} = {value!r}: no code of custom/ that this run uses has such a setting"


def _condition(key: str) -> list[str]:
    """Return another key, and its values for which this key is read; empty if it always is."""
    extra = _field(key).json_schema_extra
    found: Any = extra.get("only with", []) if isinstance(extra, dict) else []
    return list(found)


def _field(key: str) -> FieldInfo:
    *tables, last = key.split(".")
    table: Any = RunSettings
    for name in tables:
        table = next(field.annotation for field in table.model_fields.values() if field.alias == name)
    found: FieldInfo = next(field for field in table.model_fields.values() if field.alias == last)
    return found


def bundle_defaults() -> Mapping[str, Any]:
    """Return the defaults in ``pyproject.toml``, flat: the app's, or another project's built on it."""
    found: dict[str, Any] = {}
    for folder in bundle_folders():
        found |= _defaults_in(folder / "pyproject.toml")
    return found


@cache
def _defaults_in(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    app = tomllib.loads(file.read_text()).get("tool", {}).get("flwr", {}).get("app", {})
    return dict(_flat(app.get("config", {})))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
