"""Tables in JSON, as files of instructions are: a list of objects, or one object per line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.classes import as_text, is_empty
from protocol.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

JSON_SUFFIX, JSON_LINES_SUFFIX = ".json", ".jsonl"

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_ALLOWED = "a value must be a string, a number, true, false or null"


def read_objects(path: Path, where: str) -> "Dataset":
    """Read a JSON file as a table: a row for each object, a column for each key.

    Where an object lacks a key, the cell is missing. A column that mixes strings and numbers becomes one of
    strings, as in a csv file.

    Parameters
    ----------
    path
        The file, in UTF-8.
    where
        The setting and its value, for messages.

    Raises
    ------
    DataError
        If the file cannot be read so; the message names the row and the key.
    """
    from datasets import Dataset

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read: {type(error).__name__}: {error}") from error
    found = list(_lines(text, where)) if path.suffix == JSON_LINES_SUFFIX else _list(text, where)
    rows = [_flat(one, f"{where}, row {row}") for row, one in enumerate(found)]
    keys = dict.fromkeys(key for row in rows for key in row)
    try:
        return Dataset.from_dict({key: _column([row.get(key) for row in rows]) for key in keys})
    except (ValueError, OverflowError) as error:  # as pyarrow converts
        raise DataError(f"{where}: holds a value that a table cannot store: {error}") from error


def _list(text: str, where: str) -> list[Any]:
    whole = _parsed(text, where)
    if isinstance(whole, dict):
        keys = ", ".join(map(repr, whole))
        raise DataError(f"{where}: must be a list of objects, but is one object with the keys {keys}")
    if not isinstance(whole, list):
        raise DataError(f"{where}: must be a list of objects, but is {_kind(whole)}")
    return whole


def _lines(text: str, where: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _parsed(line, f"{where}, line {number}")


def _parsed(text: str, where: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON: {error}") from error


def _flat(found: object, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DataError(f"{where}: must be an object, but is {_kind(found)}")
    for key, value in found.items():
        if "\0" in key:
            raise DataError(f"{where}: key {key!r} holds a character that is not allowed in a column's name")
        if isinstance(value, dict | list):
            raise DataError(f"{where}: key {key!r} holds {_kind(value)}; {_ALLOWED}")
    return found


def _column(cells: Sequence[Any]) -> Sequence[Any]:
    kinds = {_kind(cell) for cell in cells if cell is not None}
    if len(kinds) < 2:
        return cells
    return [None if is_empty(cell) else as_text(cell) for cell in cells]


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
