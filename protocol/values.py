"""The types of settings' values, each with its validation."""

import math
import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from protocol.device import allowed_devices, is_device
from protocol.references import check_name, is_reference

InputKind = Literal["images", "numbers", "texts", "arrays"]
"""Pixels (channels, height, width), a table's row (features,), tokens (length, vocabulary), other tensors."""

DATA_SETS = ("digits",)
"""The data sets that are included."""

NODES = "nodes"
"""The value of ``data.source`` for a federation in which every node holds its own data."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?", re.ASCII)

_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def split_names(names: str) -> list[str]:
    """Split ``"a, b(x=1, y=(2, 3)),c"`` at its commas, except those in brackets, and strip the names."""
    parts, depth = [""], 0
    for letter in names:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _is_absolute(path: str) -> bool:
    return os.path.isabs(os.path.expanduser(path))  # Path.expanduser raises for an unknown ~user


def _absolute(path: str) -> str:
    if path and not _is_absolute(path):
        raise ValueError(
            "must be an absolute path or start with ~: a relative one would depend on the folder "
            "in which the SuperLink happened to be started"
        )
    return path


def _own_source(source: str) -> str:
    if not is_reference(split_source(source)[0]):
        try:
            return _absolute(source)
        except ValueError as error:
            raise ValueError(f"{error}; or be a reference custom.module:attribute") from None
    return source


def split_source(source: str) -> tuple[str, str]:
    """Split ``"place#split"`` into place and split; without ``#`` the split is empty."""
    place, _, split = source.partition("#")
    return place, split


def _data_source(source: str) -> str:
    place, _ = split_source(source)
    if not (_is_absolute(place) or is_reference(place) or _HUB_ID.fullmatch(place)):
        raise ValueError(
            f"must be {', '.join(DATA_SETS)}, {NODES}, an absolute path (~ is allowed), a Hugging Face hub "
            "id such as ylecun/mnist or owner/name:configuration, or a reference custom.module:attribute; "
            "#test after it names a split"
        )
    return source


def _optional_source(source: str) -> str:
    if source == NODES:
        raise ValueError("must be a path or a hub id: all parties use the same data here")
    return source and _data_source(source)


def expanded(place: str) -> str:
    """Return a path with ~ expanded; a hub id is returned unchanged."""
    return os.path.expanduser(place)


def is_checkpoint(place: str) -> bool:
    """Tell whether a checkpoint can lie at a place: an absolute path, or a hub id."""
    return _is_absolute(place) or _HUB_ID.fullmatch(place) is not None


def _checkpoint(place: str) -> str:
    if place and not is_checkpoint(place):
        raise ValueError(
            "must be an absolute path of a checkpoint's folder (~ is allowed) or a Hugging Face hub id such "
            "as google-bert/bert-base-uncased"
        )
    return place


def _place_to_resume(place: str) -> str:
    if place not in ("", "auto") and not _is_absolute(place):
        raise ValueError('must be "", "auto" or an absolute path (~ is allowed)')
    return place


def _client_name(name: str) -> str:
    if name and not _CLIENT_NAME.fullmatch(name):
        raise ValueError(
            "must begin with a letter or a digit and contain only letters, digits, dots, dashes and "
            "underscores, at most 64 in all: it names a folder"
        )
    return name


def _model(name: str) -> str:
    return check_name(name, libraries=True)


def _models(names: str) -> str:
    for name in split_names(names):
        try:
            _model(name)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    return names


def _things(names: str) -> str:
    for name in split_names(_names(names)):
        check_name(name)
    return names


def _names(names: str) -> str:
    if names and not split_names(names):
        raise ValueError('must be names separated by commas, as in "age,sex"')
    return names


def numbers(text: str) -> tuple[float, ...]:
    """Read ``"0.5, 1"``: TOML lists are not allowed in Flower's settings."""
    refusal = f'{text!r}: must be numbers separated by commas, as in "0.5, 1"'
    try:
        values = tuple(float(part) for part in split_names(text))
    except ValueError:
        raise ValueError(refusal) from None
    if not all(map(math.isfinite, values)):
        raise ValueError(refusal)
    return values


def _widths(text: str) -> str:
    widths = numbers(text)
    if not all(0 < width <= 1 for width in widths):
        raise ValueError("each width must be above 0 and at most 1")
    if list(widths) != sorted(widths) or (widths and widths[-1] != 1):
        raise ValueError("widths must not decrease, and the last must be 1: the whole network")
    return text


def _exits(text: str) -> str:
    exits = numbers(text)
    whole = all(exit_ >= 1 and exit_ == int(exit_) for exit_ in exits)
    if not whole or list(exits) != sorted(set(exits)):
        raise ValueError("exits must be increasing numbers of blocks, from 1")
    return text


def _shares(text: str) -> str:
    shares = numbers(text)
    if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares must be at least 0 and sum to 1; these sum to {sum(shares):g}")
    return text


def _budgets(text: str) -> str:
    budgets = numbers(text)
    ascending = list(budgets) == sorted(set(budgets))
    if not budgets or not ascending or budgets[0] <= 0 or budgets[-1] != 1:
        raise ValueError("budgets must be above 0 and increase, and the last must be 1: the whole network")
    return text


def _milestones(text: str) -> str:
    rounds = numbers(text)
    if not all(round_ >= 1 and round_ == int(round_) for round_ in rounds) or list(rounds) != sorted(rounds):
        raise ValueError("must be increasing numbers of rounds, from 1")
    return text


def _level(level: object) -> object:
    if level == "auto" or (type(level) is int and level >= 1):
        return level
    raise ValueError('must be a number from 1, or "auto"')


def _device(name: str) -> str:
    if not is_device(name):
        raise ValueError(
            "must be 'auto', 'cpu', 'cuda', or a GPU by its number, as 'cuda:0'; allowed here: "
            + ", ".join(allowed_devices())
        )
    return name


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
OwnSource = Annotated[str, AfterValidator(_own_source)]
"""A path, or a reference to the user's own code."""
DataSource = Annotated[str, AfterValidator(_data_source)]
OptionalSource = Annotated[str, AfterValidator(_optional_source)]
Names = Annotated[str, AfterValidator(_names)]
Checkpoint = Annotated[str, AfterValidator(_checkpoint)]
ResumePlace = Annotated[str, AfterValidator(_place_to_resume)]
ClientName = Annotated[str, AfterValidator(_client_name)]
ThingName = Annotated[str, AfterValidator(check_name)]
"""A plain name of something built in, or a reference into the user's ``custom/``."""
ThingNames = Annotated[str, AfterValidator(_things)]
ModelName = Annotated[str, AfterValidator(_model)]
"""Like `ThingName`, or a library's model."""
ModelNames = Annotated[str, AfterValidator(_models)]
Widths = Annotated[str, AfterValidator(_widths)]
Exits = Annotated[str, AfterValidator(_exits)]
Shares = Annotated[str, AfterValidator(_shares)]
Budgets = Annotated[str, AfterValidator(_budgets)]
Milestones = Annotated[str, AfterValidator(_milestones)]
Device = Annotated[str, AfterValidator(_device)]
Level = Annotated[int | Literal["auto"], BeforeValidator(_level)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
