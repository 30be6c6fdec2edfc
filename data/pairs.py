"""A torch ``Dataset`` of (input, label) pairs, read once; what the inputs are decides what they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.arrays import Arrays, stacked
from data.reading import Rows
from data.rows import HeldImages, pixels_of
from protocol.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch.utils.data import Dataset as TorchDataset

_LABEL, _TEXT, _NUMBER = "label", "text", "x"
"""Names of the columns that are made; of a row of numbers ``x0``, ``x1`` and so on."""
_TITLES = {"images": "an image", "numbers": "a row of numbers", "texts": "a text", "arrays": "an array"}
_ALLOWED = (
    "allowed are a PIL image or uint8 of shape (channels, height, width) with 1 or 3 channels; floats, of "
    "one dimension a row of numbers, of more an array; a text"
)


@dataclass(frozen=True)
class _Input:
    """An input as it is kept: pixels as bytes, numbers as an array, a text."""

    kind: Literal["images", "numbers", "texts", "arrays"]
    value: Any


def read_pairs(dataset: "TorchDataset[Any]", labelled: bool, most: int, where: str) -> Rows:
    """Read the pairs of a torch ``Dataset``, each once and in order.

    Images, numbers and texts become what they are from a file; ``classes``, if the data set has such names,
    are those of its labels. Arrays are of two or more dimensions.

    Parameters
    ----------
    dataset
        With a length.
    labelled
        Whether labels are used; if not, an item may be an input alone.
    most
        How many rows to read, from the first; 0 reads all.
    where
        The setting and its value, for messages.

    Returns
    -------
    Rows
        With labels in a column ``label``, texts in ``text``, numbers in ``x0``, ``x1`` and so on.

    Raises
    ------
    DataError
        Naming the first row that cannot be read, or is not of the first's kind.
    """
    inputs, labels = [], []
    for row in range(_length(dataset, most, where)):
        try:
            input_, label = _pair(dataset[row], labelled)
            inputs.append(_input(input_))
            labels.append(_label(label))
        except DataError as error:
            raise DataError(f"{where}, row {row}: {error}") from error
        except Exception as error:  # of the user's own code, all sorts
            raise DataError(f"{where}, row {row}: {type(error).__name__}: {error}") from error
        if inputs[row].kind != inputs[0].kind:
            raise DataError(
                f"{where}, row {row}: is {_TITLES[inputs[row].kind]}, the first is {_TITLES[inputs[0].kind]}"
            )
    kind, values = inputs[0].kind, [one.value for one in inputs]
    columns = _columns(kind, values, where)
    table = _table(columns, labels, getattr(dataset, "classes", None), where)
    if kind == "images":
        return Rows(table, HeldImages(values))
    return Rows(table, Arrays(stacked(values, where)) if kind == "arrays" else None)


def _length(dataset: Any, most: int, where: str) -> int:  # noqa: ANN401
    try:
        found = len(dataset)
    except Exception as error:  # of the user's own code, all sorts
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


def _input(value: Any) -> _Input:  # noqa: ANN401
    from PIL import Image

    if isinstance(value, str):
        return _Input("texts", value)
    if isinstance(value, Image.Image):
        return _Input("images", pixels_of(value))
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()  # numpy has no bfloat16
    if not isinstance(value, np.ndarray):
        raise DataError(f"the input is a {type(value).__name__}; {_ALLOWED}")
    if value.dtype == np.uint8 and value.ndim == 3 and value.shape[0] in (1, 3):
        pixels = value[0] if len(value) == 1 else np.ascontiguousarray(value.transpose(1, 2, 0))
        return _Input("images", pixels_of(Image.fromarray(pixels)))
    if value.dtype.kind == "f" and value.ndim and value.size:
        return _Input("numbers" if value.ndim == 1 else "arrays", value)
    raise DataError(f"the input is {value.dtype} of shape {value.shape}; {_ALLOWED}")


def _label(value: Any) -> str | float | None:  # noqa: ANN401
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    raise DataError(f"the label is a {type(value).__name__}{shape}; it must be one number or a text")


def _columns(kind: str, values: Sequence[Any], where: str) -> Mapping[str, Any]:
    """Return the columns of a table in which inputs are kept, if they are."""
    if kind == "texts":
        return {_TEXT: values}
    if kind == "numbers":
        numbers: NDArray[np.float32] = stacked(values, where, gaps=True)
        return {f"{_NUMBER}{place}": column for place, column in enumerate(numbers.T)}
    return {}


def _table(
    columns: Mapping[str, Any],
    labels: Sequence[str | float | None],
    names: object,
    where: str,
) -> "Dataset":
    """Return a table of columns and labels; these are the numbers of ``names``, if there are such."""
    from datasets import ClassLabel, Dataset, Features

    texts = [isinstance(label, str) for label in labels]
    if len(set(texts)) > 1:
        row = texts.index(not texts[0])
        raise DataError(
            f"{where}, row {row}: the label is {labels[row]!r}, the first is {labels[0]!r}; they must be all "
            "numbers or all texts"
        )
    table = Dataset.from_dict({**columns, _LABEL: labels})
    if not isinstance(names, list | tuple) or texts[0] or labels[0] is None:
        return table
    for row, label in enumerate(labels):
        if label not in range(len(names)):
            raise DataError(
                f"{where}, row {row}: the label is {label!r}; by the data set's classes it must be a number "
                f"from 0 to {len(names) - 1}"
            )
    features = Features(
        {**table.features, _LABEL: ClassLabel(names=[str(name).replace("|", "/") for name in names])}
    )
    return Dataset.from_dict({**columns, _LABEL: [int(label or 0) for label in labels]}, features=features)
