"""Reads a torch ``Dataset`` of (input, label) pairs; the inputs' type says what kind of data they are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from data.arrays import Arrays, require_one_shape, stacked
from data.reading import Rows
from data.rows import HeldImages, pixels_of
from protocol.errors import DataError
from protocol.values import InputKind

if TYPE_CHECKING:
    from datasets import Dataset
    from torch.utils.data import Dataset as TorchDataset

    Label = str | float | None

_LABEL, _TEXT, _NUMBER = "label", "text", "x"
"""Names of the columns of the table that is made; numbers are in ``x0``, ``x1`` and so on."""
_TITLES: Mapping[InputKind, str] = {
    "images": "an image",
    "numbers": "a row of numbers",
    "texts": "a text",
    "arrays": "an array",
}
_ALLOWED = (
    "allowed are images (PIL, or uint8 of shape (channels, height, width) with 1 or 3 channels), rows of "
    "numbers (floats of one dimension), arrays (floats of more dimensions) and texts"
)


def read_pairs(dataset: "TorchDataset[Any]", labelled: bool, most: int, where: str) -> Rows:
    """Read the items of a torch ``Dataset``, each once and in order.

    If the data set has an attribute ``classes``, labels are its names, or their numbers from 0.

    Parameters
    ----------
    dataset
        It must have a length.
    labelled
        Whether labels are used; if not, an item may be an input without a label.
    most
        How many items to read, from the first; 0: all.
    where
        The setting and its value, for messages.

    Returns
    -------
    Rows
        With labels in the column ``label``, texts in ``text``, numbers in ``x0``, ``x1`` and so on.

    Raises
    ------
    DataError
        Naming the first item that cannot be read or is of another kind than the first one.
    """
    items = list(_items(dataset, labelled, most, where))
    kind, _, _ = items[0]
    values = [value for _, value, _ in items]
    for row, (own, _, _) in enumerate(items):
        if own != kind:
            raise DataError(f"{where}, row {row}: is {_TITLES[own]}, the first one is {_TITLES[kind]}")
    labels = [label for _, _, label in items]
    table = _table(_columns(kind, values, where), labels, getattr(dataset, "classes", None), where)
    if kind == "images":
        return Rows(table, HeldImages(values))
    return Rows(table, Arrays(stacked(values, where)) if kind == "arrays" else None)


def _items(
    dataset: Any,  # noqa: ANN401
    labelled: bool,
    most: int,
    where: str,
) -> Iterator[tuple[InputKind, Any, "Label"]]:
    """Yield the kind, the value and the label of each item."""
    for row in range(_length(dataset, most, where)):
        try:
            value, label = _pair(dataset[row], labelled)
            yield *_input(value), _label(label)
        except DataError as error:
            raise DataError(f"{where}, row {row}: {error}") from error
        except Exception as error:  # user code may raise anything
            raise DataError(f"{where}, row {row}: {type(error).__name__}: {error}") from error


def _length(dataset: Any, most: int, where: str) -> int:  # noqa: ANN401
    try:
        found = len(dataset)
    except Exception as error:  # user code may raise anything
        raise DataError(
            f"{where}: a torch Dataset must have a length: {type(error).__name__}: {error}"
        ) from error
    if not found:
        raise DataError(f"{where}: holds no rows")
    return min(found, most) if most else found


def _pair(item: Any, labelled: bool) -> tuple[Any, Any]:  # noqa: ANN401
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1] if labelled else None
    if not labelled and not isinstance(item, tuple | list):
        return item, None
    length = f" of length {len(item)}" if isinstance(item, tuple | list) else ""
    raise DataError(f"is a {type(item).__name__}{length}; an item must be a pair (input, label)")


def _input(value: Any) -> tuple[InputKind, Any]:  # noqa: ANN401
    """Return the kind of an input, and the input as it is kept: an image as bytes."""
    from PIL import Image

    if isinstance(value, str):
        return "texts", value
    if isinstance(value, Image.Image):
        return "images", pixels_of(value)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has none
    if not isinstance(value, np.ndarray):
        raise DataError(f"the input is a {type(value).__name__}; {_ALLOWED}")
    if value.dtype == np.uint8 and value.ndim == 3 and value.shape[0] in (1, 3):
        return "images", pixels_of(value)
    if value.dtype.kind == "f" and value.ndim and value.size:
        return "numbers" if value.ndim == 1 else "arrays", value
    raise DataError(f"the input is {value.dtype} of shape {value.shape}; {_ALLOWED}")


def _label(value: Any) -> "Label":  # noqa: ANN401
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    raise DataError(f"the label is a {type(value).__name__}{shape}; it must be one number or a text")


def _columns(kind: InputKind, values: Sequence[Any], where: str) -> Mapping[str, Any]:
    """Return the columns of inputs that a table holds: texts and numbers."""
    if kind == "texts":
        return {_TEXT: values}
    if kind == "numbers":
        require_one_shape(values, where)
        return {f"{_NUMBER}{place}": column for place, column in enumerate(np.stack(values, axis=1))}
    return {}


def _table(columns: Mapping[str, Any], labels: Sequence["Label"], names: object, where: str) -> "Dataset":
    """Return a table of columns and labels; ``names`` are the classes, if they are a list."""
    from datasets import ClassLabel, Dataset, Features

    texts = [isinstance(label, str) for label in labels]
    if len(set(texts)) > 1:
        row = texts.index(not texts[0])
        raise DataError(
            f"{where}, row {row}: the label is {labels[row]!r}, the first one is {labels[0]!r}; labels must "
            "be all numbers or all texts"
        )
    table = Dataset.from_dict({**columns, _LABEL: labels})
    if not isinstance(names, list | tuple) or set(labels) == {None}:
        return table
    classes = ClassLabel(names=[str(name).replace("|", "/") for name in names])
    data = {**columns, _LABEL: _class_numbers(labels, names, where)}
    return Dataset.from_dict(data, features=Features({**table.features, _LABEL: classes}))


def _class_numbers(labels: Sequence["Label"], names: Sequence[object], where: str) -> list[int]:
    numbers: Mapping[object, int] = {name: number for number, name in enumerate(names)}
    found = [numbers.get(label) if isinstance(label, str) else label for label in labels]
    for row, number in enumerate(found):
        if number not in range(len(names)):
            raise DataError(
                f"{where}, row {row}: the label is {labels[row]!r}; it must be one of the data set's classes "
                f"{', '.join(map(str, names))}, or its number from 0 to {len(names) - 1}"
            )
    return [int(number) for number in found if number is not None]
