"""The classes of a federation, and which class a label is."""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from data.captions import LabelFinder
from protocol.errors import DataError
from protocol.values import split_names

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("flwr")

_MOST_CLASSES_SHOWN = 12
_MOST_CHARACTERS_SHOWN = 200
"""Of a caption in a message."""
_NO_CLASS = -1


@dataclass(frozen=True)
class Classes:
    """The classes of a federation, in order.

    Parameters
    ----------
    names
        The label of each class, as text; several labels of one class are joined by ``|``, as in ``1|2|3|4``.
    """

    names: tuple[str, ...]

    @classmethod
    def declared(cls, text: str) -> Self:
        """Read ``data.classes``: a number of classes, whose labels are then 0, 1, …, or the labels.

        Raises
        ------
        DataError
            If there are fewer than two, or a label is empty or stands for two classes.
        """
        names = (
            [str(number) for number in range(int(text))] if text.strip().isdecimal() else split_names(text)
        )
        labels = [label for name in names for label in _alternatives(name)]
        if len(names) < 2 or len(set(labels)) < len(labels) or not all(labels):
            raise DataError(
                f'data.classes = "{text}": must be a number of classes, 2 or more, or at least two labels, '
                "all different"
            )
        return cls(tuple(names))

    @classmethod
    def found(cls, dataset: "Dataset", column: str, where: str) -> Self:
        """Find the classes in a column: those listed by its type, otherwise all values that occur, sorted.

        Parameters
        ----------
        dataset, column
            Where the labels are.
        where
            The setting and its value, for messages.

        Raises
        ------
        DataError
            If the column does not hold labels, or fewer than two different ones.
        """
        _require_labels(dataset, column, where)
        if names := _names_by_type(dataset, column):
            return cls(names)
        cells = [cell for cell in dataset.unique(column) if not is_empty(cell)]
        numbers = all(isinstance(cell, int | float) for cell in cells)
        names = tuple(map(as_text, sorted(cells))) if numbers else tuple(sorted(map(as_text, cells)))
        if len(names) < 2:
            found = f"only the label {names[0]!r}" if names else "no labels"
            raise DataError(f"{where}: column {column!r} holds {found} (data.classes can name the classes)")
        return cls(names)

    def __len__(self) -> int:
        return len(self.names)

    def targets(self, dataset: "Dataset", column: str, where: str, captions: bool = False) -> Tensor:
        """Return the class of each row, int64 of shape (N,).

        A column's type may list names for its numbers (``ClassLabel``). Its rows may then also match a label
        by number, provided that the type lists as many names as the classes have labels; otherwise the
        numbers mean something else. A caption that is no label itself is of the one class whose label it
        contains, see `LabelFinder`.

        Parameters
        ----------
        dataset, column
            Where the labels are.
        where
            The setting and its value, for messages.
        captions
            Whether texts may be captions.

        Raises
        ------
        DataError
            If a row has no label, or a label of no class; the message names the first such row.
        """
        _require_labels(dataset, column, where)
        cells, names = dataset[column][:], _names_by_type(dataset, column)
        found = [self._class_of(cell, names) for cell in cells]
        if captions and not names:
            self._read_captions(cells, found, where)
        if _NO_CLASS in found:
            row = found.index(_NO_CLASS)
            raise DataError(f"{where}, row {row}: {self._why_no_class(cells[row], names, column, captions)}")
        return torch.tensor(found, dtype=torch.int64)

    def _read_captions(self, cells: Sequence[object], found: list[int], where: str) -> None:
        """Fill in the classes of texts that are no label but contain one."""
        unknown = {cell for cell, class_ in zip(cells, found, strict=True) if class_ == _NO_CLASS}
        named = {text: self._label_finder.classes_in(text) for text in unknown if isinstance(text, str)}
        read = {text: classes[0] for text, classes in named.items() if len(classes) == 1}
        rows = [row for row, cell in enumerate(cells) if cell in read]
        for row in rows:
            found[row] = read[str(cells[row])]
        if rows:
            first = str(cells[rows[0]])
            log.info(
                "%s: %d captions have the class whose label they contain, for example row %d, %r: class %s",
                where, len(rows), rows[0], _short(first), self.names[read[first]],
            )  # fmt: skip

    def _class_of(self, cell: object, names: Sequence[str]) -> int:
        if _is_no_label(cell, names):
            return _NO_CLASS
        by_number = names and len(names) == len(self._of_label)
        otherwise = self._of_text.get(as_text(cell), _NO_CLASS) if by_number else _NO_CLASS
        return self._of_text.get(_label(cell, names), otherwise)

    def _why_no_class(self, cell: object, names: Sequence[str], column: str, captions: bool) -> str:
        if _is_no_label(cell, names):
            return f"column {column!r} holds no label"
        shown = ", ".join(self.names[:_MOST_CLASSES_SHOWN]) + (
            ", …" if len(self) > _MOST_CLASSES_SHOWN else ""
        )
        label = _label(cell, names)
        classes = f"none of the {len(self)} classes {shown} (data.classes can name them)"
        if not (captions and isinstance(cell, str)):
            return f"label {label!r} is {classes}"
        named = ", ".join(self.names[class_] for class_ in self._label_finder.classes_in(cell))
        contained = f"several of them: {named}" if named else "none of them"
        return f"label {_short(label)!r} is {classes}, and contains {contained}"

    @cached_property
    def _label_finder(self) -> LabelFinder:
        return LabelFinder(self._of_text)

    @cached_property
    def _of_label(self) -> dict[str, int]:
        return {label: number for number, name in enumerate(self.names) for label in _alternatives(name)}

    @cached_property
    def _of_text(self) -> dict[str, int]:
        """The class of each label and each whole name, since a label found in the data may have a ``|``."""
        return self._of_label | {name: number for number, name in enumerate(self.names)}


def is_empty(cell: object) -> bool:
    """Tell whether a cell is missing: None, NaN or an empty text."""
    return cell is None or cell != cell or cell == ""  # noqa: PLR0124 - only NaN differs from itself


def as_text(cell: Any) -> str:  # noqa: ANN401
    """Return a label or a code as text; 3.0 is 3, as a missing value turns a column's integers to floats."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _is_no_label(cell: object, names: Sequence[str]) -> bool:
    return is_empty(cell) or (bool(names) and cell == -1)  # datasets' number for a missing label


def _label(cell: Any, names: Sequence[str]) -> str:  # noqa: ANN401
    return names[cell] if names else as_text(cell)


def _short(caption: str) -> str:
    return textwrap.shorten(caption, _MOST_CHARACTERS_SHOWN, placeholder="…")


def _alternatives(name: str) -> list[str]:
    return [part.strip() for part in name.split("|")]


def _names_by_type(dataset: "Dataset", column: str) -> tuple[str, ...]:
    """Return the labels that a column's type lists; the column then holds their numbers."""
    from datasets import ClassLabel

    feature = dataset.features[column]
    return tuple(feature.names or ()) if isinstance(feature, ClassLabel) else ()


def _require_labels(dataset: "Dataset", column: str, where: str) -> None:
    from datasets import ClassLabel, Value

    feature = dataset.features[column]
    if not isinstance(feature, ClassLabel | Value):
        raise DataError(
            f"{where}: column {column!r} holds no labels, but {feature} (data.label names another)"
        )
