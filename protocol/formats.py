"""Versions of the formats of files: which one this program writes and reads of each kind of file.

A file without a version is of version 1: the program wrote such files before they had one. Older versions are
read, a newer one is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from protocol.errors import FormatError

JSON_KEY = "format"
"""Where a JSON object holds its version."""
METADATA_KEY = "motley-format"
"""Where the metadata of a safetensors or an ONNX file hold theirs; other libraries use ``format`` there."""


class FileKind(StrEnum):
    """A kind of file; the value is its name in messages."""

    SETTINGS = "settings of a run"
    DATA_FACTS = "facts about a run's data"
    ROUND = "record of a round"
    CHECKPOINT = "checkpoint"
    WEIGHTS = "weights of a model"
    CLIENT_STATE = "state of a client"
    EXPORT = "exported submodel"
    LEVEL = "measured level of a node"
    IMAGES = "prepared images"


@dataclass(frozen=True)
class FileFormat:
    """What this program knows of the format of a kind of file."""

    version: int
    """The version that is written, and the newest that can be read."""
    remedy: str = ""
    """What else can be done about a newer file than to use the program that wrote it."""


FORMATS: Mapping[FileKind, FileFormat] = {
    FileKind.SETTINGS: FileFormat(1, "start a new run"),
    FileKind.DATA_FACTS: FileFormat(1, "start a new run"),
    FileKind.ROUND: FileFormat(1, "start a new run"),
    FileKind.CHECKPOINT: FileFormat(1, "start a new run"),
    FileKind.WEIGHTS: FileFormat(1),
    FileKind.CLIENT_STATE: FileFormat(1, "start a new run"),
    FileKind.EXPORT: FileFormat(1, "export the submodel again with this one"),
    FileKind.LEVEL: FileFormat(1, "delete the file: the level is then measured again"),
    FileKind.IMAGES: FileFormat(
        1
    ),  # part of the name of a folder in the cache: a newer one is not looked for
}
"""Raise a version when a program that knows only the one before would read the new files wrongly.

The code that reads a kind of file then has to take its older versions too.
"""


def stamped(kind: FileKind, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a JSON file holds: the version of its format, then its content.

    Raises
    ------
    ValueError
        If the content has a key ``format`` of its own.
    """
    return _with_version(JSON_KEY, FORMATS[kind].version, content)


def checked(kind: FileKind, content: object, where: Path | str) -> dict[str, Any]:
    """Return the content of a JSON file without its version, which this program must be able to read.

    Parameters
    ----------
    kind
        Of the file.
    content
        What the file holds.
    where
        The file, and perhaps the place in it, for messages.

    Raises
    ------
    FormatError
        If the file is of a newer version, or its version is not a whole number from 1.
    ValueError
        If the content is not a JSON object.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where}: not a JSON object, but {type(content).__name__}")
    version = content.get(JSON_KEY, 1)
    _check(kind, version if type(version) is int else 0, version, where)
    return {key: value for key, value in content.items() if key != JSON_KEY}


def stamped_metadata(kind: FileKind, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a safetensors or an ONNX file with the version of its format.

    Raises
    ------
    ValueError
        If the metadata have a key ``motley-format`` of their own.
    """
    return _with_version(METADATA_KEY, str(FORMATS[kind].version), metadata)


def checked_metadata(kind: FileKind, metadata: Mapping[str, str], where: Path | str) -> dict[str, str]:
    """Return the metadata of a file without its version, which this program must be able to read.

    Parameters
    ----------
    kind
        Of the file.
    metadata
        What the file holds.
    where
        The file, for messages.

    Raises
    ------
    FormatError
        If the file is of a newer version, or its version is not a whole number from 1.
    """
    version = metadata.get(METADATA_KEY, "1")
    _check(kind, int(version) if version.isascii() and version.isdecimal() else 0, version, where)
    return {key: value for key, value in metadata.items() if key != METADATA_KEY}


def _with_version(key: str, version: int | str, content: Mapping[str, Any]) -> dict[str, Any]:
    if key in content:
        raise ValueError(f"{key!r} is the key of the format's version: the content cannot have it too")
    return {key: version, **content}


def _check(kind: FileKind, version: int, written: object, where: Path | str) -> None:
    """Refuse a version that is not known here; ``written`` is how the file has it."""
    known = FORMATS[kind]
    if version < 1:
        raise FormatError(f"{where} ({kind}): format = {written!r} must be a whole number from 1")
    if version > known.version:
        otherwise = f", or {known.remedy}" if known.remedy else ""
        raise FormatError(
            f"{where} ({kind}): written by a newer version of Motley, in format {version}; this one reads up "
            f"to format {known.version}: use the newer version{otherwise}"
        )
