"""Format versions: the version that this program writes, and can read, of each kind of file.

A file without a version is of version 1, from the time before files stated one. Older versions are read; a
newer one is refused with an error that names the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from protocol.errors import FormatError

JSON_KEY = "format"
"""The key of the version in a JSON object."""
METADATA_KEY = "motley-format"
"""The key of the version in the metadata of safetensors and ONNX files, where libraries use ``format``."""


class FileKind(StrEnum):
    """A kind of file; the value is its name in error messages."""

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
    """The format of a kind of file, as this program knows it."""

    version: int
    """The version that is written, and the newest that can be read."""
    remedy: str = ""
    """What a user can do about a newer file, other than use the version that wrote it."""


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
"""Raise a version if older versions of this program would misread the new files.

The code that reads the file must then accept its older versions as well.
"""


def stamped(kind: FileKind, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with the version of its format added.

    Raises
    ------
    ValueError
        If the content has a key ``format`` of its own.
    """
    return _with_version(JSON_KEY, FORMATS[kind].version, content)


def checked(kind: FileKind, content: object, where: Path | str) -> dict[str, Any]:
    """Return the content of a JSON file without its version, after checking that this program can read it.

    Parameters
    ----------
    kind
        The kind of file.
    content
        The parsed JSON.
    where
        The file, and possibly the line in it, for error messages.

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
    """Return the metadata of a file without its version, after checking that this program can read it.

    Parameters
    ----------
    kind
        The kind of file.
    metadata
        The metadata read from the file.
    where
        The file, for error messages.

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
