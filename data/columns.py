"""Which column of a table is what: as the settings say, else by its type, its name, or what it holds."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from protocol.errors import DataError
from protocol.settings import DataSettings

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("flwr")

_FILES = (
    "image",
    "image_path",
    "image_file",
    "image_id",
    "img",
    "img_path",
    "file",
    "file_name",
    "file_path",
    "filename",
    "path",
)
"""In small letters, as all names here: a column's are compared so."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_TEXTS = ("text", "sentence", "content", "question", "utterance")
_LABELS = ("label", "labels", "class", "target", "fine_label")
_ANSWERS = ("caption", "answer", "output", "response")
"""Labels of images in files of instructions."""
_INSTRUCTIONS = ("instruction", "instruction_input", "prompt", "question")
_LOOKED_AT = 100
"""So many of the first cells decide whether they name files."""
_KINDS_OF_TEXT = ("string", "large_string")


@dataclass(frozen=True)
class Roles:
    """Which column is what; empty where there is none."""

    image: str
    text: str
    label: str
    site: str
    group: str

    @classmethod
    def of(
        cls,
        table: "Dataset",
        settings: DataSettings,
        labelled: bool,
        keys: tuple[str, ...],
        folder: Path,
        where: str,
    ) -> Self:
        """Find the columns.

        A pool, whose labels are not used, may lack columns that the settings name, and so may any source
        lack those of sites and groups if these are not used.

        Parameters
        ----------
        table
            All columns.
        settings
            Which of them are named.
        labelled
            Whether labels are used.
        keys
            Which of ``site`` and ``group`` are used.
        folder
            What names of files are relative to; not absolute if there can be none.
        where
            The setting and its value, for messages.

        Raises
        ------
        DataError
            If a named column is not there, or it is open which one is meant.
        """
        columns = table.column_names
        for key in ("image", "text", "label", *keys) if labelled else keys:
            name = getattr(settings, key)
            if name and name not in columns:
                raise DataError(
                    f'data.{key} = "{name}": {where} has no such column; there are {", ".join(columns)}'
                )

        def named(key: str) -> str:
            name: str = getattr(settings, key)
            return name if name in columns else ""

        image, text, label = named("image"), named("text"), named("label")
        if not (image or text or settings.features):
            others = {label, named("site"), named("group")}
            image = _image_column(table, where) or _file_column(table, others, folder, where)
            text = "" if image else _text_column(table)
        label = label or _label_column(table, _LABELS + _ANSWERS if image else _LABELS)
        if labelled and not label:
            raise DataError(
                f"{where}: which column holds the classes? Name it in data.label; there are "
                f"{', '.join(columns)}"
            )
        return cls(image, text, label, named("site"), named("group"))

    def mention_instructions(self, table: "Dataset", where: str) -> None:
        """Write into the log that instructions which come with images are not what is asked."""
        others = {self.label, self.site, self.group}
        for name in _columns_of_text(table, _INSTRUCTIONS) if self.image else ():
            if name in others:
                continue
            if (count := len(table.unique(name))) > 1:
                log.info(
                    "%s: the %d instructions of column %r are not used: of every image a vision-language "
                    "model is asked the run's vlm.prompt",
                    where,
                    count,
                    name,
                )


def _image_column(table: "Dataset", where: str) -> str:
    from datasets import Image

    found = [name for name, kind in table.features.items() if isinstance(kind, Image) or _is_encoded(kind)]
    return _only(found, where)


def _is_encoded(kind: object) -> bool:
    """Tell whether a column is one of images whose file does not say so."""
    return isinstance(kind, dict) and set(kind) == {"bytes", "path"}


def _file_column(table: "Dataset", others: set[str], folder: Path, where: str) -> str:
    """Return the column that has the name of one of files of images, and names files that are there."""
    if not folder.is_absolute():  # a data set of the hub
        return ""
    named = {
        name: list(islice(filter(None, table[name]), _LOOKED_AT))
        for name in _columns_of_text(table, _FILES)
        if name not in others
    }
    found = [name for name, cells in named.items() if any(os.path.isfile(folder / cell) for cell in cells)]
    missing = [name for name, cells in named.items() if cells and all(map(_is_name_of_image, cells))]
    if missing and not found:
        name = missing[0]
        raise DataError(
            f"{where}: column {name!r} names files of images, and none of the first {len(named[name])} is "
            f"there, as {folder / named[name][0]}; if the images are not to be used, name what is in "
            "data.text or data.features"
        )
    return _only(found, where)


def _is_name_of_image(cell: str) -> bool:
    return cell.lower().endswith(_SUFFIXES)


def _only(found: Sequence[str], where: str) -> str:
    if len(found) > 1:
        raise DataError(f"{where}: has several columns of images, {', '.join(found)}: name one in data.image")
    return found[0] if found else ""


def _text_column(table: "Dataset") -> str:
    """Return the column that has the name of one of texts, and holds texts."""
    return next(iter(_columns_of_text(table, _TEXTS)), "")


def _columns_of_text(table: "Dataset", names: Sequence[str]) -> list[str]:
    """Return those of a table's columns that have one of the names, in the names' order, and hold texts."""
    texts = [name for name, kind in table.features.items() if getattr(kind, "dtype", "") in _KINDS_OF_TEXT]
    return _named(texts, names)


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for name in names for column in columns if column.lower() == name]


def _label_column(table: "Dataset", names: Sequence[str]) -> str:
    from datasets import ClassLabel

    typed: list[str] = [name for name, kind in table.features.items() if isinstance(kind, ClassLabel)]
    if len(typed) == 1:
        return typed[0]
    return next(iter(_named(table.column_names, names)), "")
