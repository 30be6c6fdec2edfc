"""The role of each column of a table: as the settings say, otherwise by its type, its name or its cells."""

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

_IMAGE_FILE_COLUMNS = (
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
"""In lower case, as all names here; column names are compared without regard to case."""
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_TEXT_COLUMNS = ("text", "sentence", "content", "question", "utterance")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")
_CAPTION_COLUMNS = ("caption", "answer", "output", "response")
"""Names of the label column in files of instructions for images."""
_INSTRUCTION_COLUMNS = ("instruction", "instruction_input", "prompt", "question")
_CELLS_CHECKED = 100
"""So many of a column's first cells decide whether it holds file names."""
_TEXT_TYPES = ("string", "large_string")


@dataclass(frozen=True)
class Roles:
    """The column of each role; empty where there is none."""

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

        The public pool, whose labels are not used, may lack columns that the settings name. Any source may
        lack the columns of sites and groups if they are not used.

        Parameters
        ----------
        table
            All columns.
        settings
            May name the columns.
        labelled
            Whether labels are used.
        keys
            Which of ``site`` and ``group`` are used.
        folder
            Folder that file names are relative to; not absolute if the table cannot name files.
        where
            The setting and its value, for messages.

        Raises
        ------
        DataError
            If a named column does not exist, or several columns fit a role.
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
        label = label or _label_column(table, _LABEL_COLUMNS + _CAPTION_COLUMNS if image else _LABEL_COLUMNS)
        if labelled and not label:
            raise DataError(
                f"{where}: which column holds the classes? Name it in data.label; there are "
                f"{', '.join(columns)}"
            )
        return cls(image, text, label, named("site"), named("group"))

    def log_unused_instructions(self, table: "Dataset", where: str) -> None:
        """Log that instructions which come with images are not used as prompts."""
        others = {self.label, self.site, self.group}
        for name in _columns_of_text(table, _INSTRUCTION_COLUMNS) if self.image else ():
            if name in others:
                continue
            if (count := len(table.unique(name))) > 1:
                log.info(
                    "%s: the %d instructions in column %r are not used: the prompt for every image is the "
                    "run's vlm.prompt",
                    where,
                    count,
                    name,
                )


def _image_column(table: "Dataset", where: str) -> str:
    from datasets import Image

    found = [name for name, kind in table.features.items() if isinstance(kind, Image) or _is_encoded(kind)]
    return _only(found, where)


def _is_encoded(kind: object) -> bool:
    """Tell whether a column holds encoded images without being declared as images."""
    return isinstance(kind, dict) and set(kind) == {"bytes", "path"}


def _file_column(table: "Dataset", others: set[str], folder: Path, where: str) -> str:
    """Return the column with a known name for image files whose cells name existing files."""
    if not folder.is_absolute():  # a data set of the hub
        return ""
    named = {
        name: list(islice(filter(None, table[name]), _CELLS_CHECKED))
        for name in _columns_of_text(table, _IMAGE_FILE_COLUMNS)
        if name not in others
    }
    found = [name for name, cells in named.items() if any(os.path.isfile(folder / cell) for cell in cells)]
    missing = [name for name, cells in named.items() if cells and all(map(_is_image_name, cells))]
    if missing and not found:
        name = missing[0]
        raise DataError(
            f"{where}: column {name!r} names image files, but none of the first {len(named[name])} exists, "
            f"for example {folder / named[name][0]}; to use other columns instead, name them in data.text "
            "or data.features"
        )
    return _only(found, where)


def _is_image_name(cell: str) -> bool:
    return cell.lower().endswith(_IMAGE_SUFFIXES)


def _only(found: Sequence[str], where: str) -> str:
    if len(found) > 1:
        raise DataError(f"{where}: has several columns of images, {', '.join(found)}: name one in data.image")
    return found[0] if found else ""


def _text_column(table: "Dataset") -> str:
    """Return the first column with a known name for texts that holds texts."""
    return next(iter(_columns_of_text(table, _TEXT_COLUMNS)), "")


def _columns_of_text(table: "Dataset", names: Sequence[str]) -> list[str]:
    """Return a table's columns of texts that have one of the names, in the order of the names."""
    texts = [name for name, kind in table.features.items() if getattr(kind, "dtype", "") in _TEXT_TYPES]
    return _named(texts, names)


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for name in names for column in columns if column.lower() == name]


def _label_column(table: "Dataset", names: Sequence[str]) -> str:
    from datasets import ClassLabel

    typed: list[str] = [name for name, kind in table.features.items() if isinstance(kind, ClassLabel)]
    if len(typed) == 1:
        return typed[0]
    return next(iter(_named(table.column_names, names)), "")
