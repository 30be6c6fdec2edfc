"""Loads a data set: its inputs, classes, sites and groups."""

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.arrays import Arrays, arrays_of_column, is_array_column
from data.classes import Classes, as_text, is_empty
from data.columns import Roles
from data.images import Conversion, Images, in_memory, prepare
from data.own import read_own_rows
from data.reading import Rows, read_rows
from data.rows import EncodedImages
from data.tables import Table
from data.texts import Texts
from protocol.errors import DataError
from protocol.references import is_reference
from protocol.settings import DEFAULTS, DataSettings, RunSettings
from protocol.values import split_names, split_source

if TYPE_CHECKING:
    from datasets import Dataset

Content = Images | Table | Texts | Arrays

DIGITS = "digits"
_UNUSED_BY_DIGITS = (
    *("image", "text", "label", "site", "group", "features", "categorical"),
    *("classes", "channels", "image_size"),
)
"""Settings that do not apply to digits, which are used as they are."""
_ROW_NUMBERS = re.compile(r"__index_level_\d+__|Unnamed: 0")
"""Names of the columns in which pandas writes row numbers, which are not features."""


@dataclass(frozen=True, eq=False)
class Keys:
    """A column that says which rows belong together, such as a site or a patient.

    Parameters
    ----------
    numbers
        Int64 tensor of shape (N,): the position in ``names`` of each row's value.
    names
        The column's different values, sorted.
    """

    numbers: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """A whole data set, before anything is split off.

    Parameters
    ----------
    name
        As in the settings.
    content
        The N rows that networks learn from.
    targets
        Int64 tensor of shape (N,): the class of each row; None if labels are not used.
    classes
        The classes; None if labels are not used.
    sites, groups
        The columns ``data.site`` and ``data.group``; None if there are none, or they are not used.
    """

    name: str
    content: Content
    targets: Tensor | None
    classes: Classes | None
    sites: Keys | None = None
    groups: Keys | None = None

    def __len__(self) -> int:
        return len(self.content)

    @property
    def labels(self) -> Tensor:
        """Targets of a source that was loaded with labels."""
        assert self.targets is not None
        return self.targets


@functools.lru_cache(maxsize=16)
def load_source(
    setting: str,
    source: str,
    settings: DataSettings,
    image_shape: tuple[int, ...] | None = None,
    classes: Classes | None = None,
    labelled: bool = True,
    keys: tuple[str, ...] = (),
    max_samples: int = 0,
    run: RunSettings = DEFAULTS,
) -> Source:
    """Load a data set, once per process.

    Parameters
    ----------
    setting
        The setting that names it, for messages.
    source
        ``digits``, whatever `read_rows` opens, or a reference for `read_own_rows`.
    settings
        Name columns, and the size and channels that images are converted to.
    image_shape
        Shape (channels, height, width) that images are converted to instead; None: as the settings say.
        Shapes of other inputs are ignored.
    classes
        The classes of the federation; None: those of the settings, otherwise those found here.
    labelled
        Whether labels are used.
    keys
        Which of ``site`` and ``group`` are used.
    max_samples
        How many rows to use, from the first; 0: all.
    run
        The run's settings, with which user code is called.

    Raises
    ------
    DataError
        If the data set does not exist, or cannot be used as the settings say.
    SettingsError
        If a reference cannot be resolved.
    """
    where = f'{setting} = "{source}"'
    if source == DIGITS:
        _require_plain(settings)
        return _digits(max_samples, labelled)
    if is_reference(split_source(source)[0]):
        rows = read_own_rows(setting, source, run, labelled, max_samples)
    else:
        rows = read_rows(source, where)
    count = min(max_samples, len(rows.table)) if max_samples else len(rows.table)
    table = rows.table.select(range(count)) if count < len(rows.table) else rows.table
    roles = Roles.of(table, settings, labelled, keys, rows.folder, where)
    roles.log_unused_instructions(table, where)
    content, kept = _content(rows, table, roles, settings, image_shape, where)
    targets = None
    if labelled:
        classes = classes or (Classes.declared(settings.classes) if settings.classes else None)
        classes = classes or Classes.found(table, roles.label, where)
        targets = classes.targets(table, roles.label, where, captions=bool(roles.image))
    sites = _keys(table, roles.site, where) if "site" in keys else None
    groups = _keys(table, roles.group, where) if "group" in keys else None
    if kept is not None:
        targets = None if targets is None else targets[kept]
        sites, groups = (keys and Keys(keys.numbers[kept], keys.names) for keys in (sites, groups))
    return Source(source, content, targets, classes if labelled else None, sites, groups)


def _require_plain(settings: DataSettings) -> None:
    """Refuse settings that do not apply to digits, if the federation learns from them."""
    asked = [key for key in _UNUSED_BY_DIGITS if getattr(settings, key)] if settings.source == DIGITS else []
    if asked:
        key = asked[0]
        raise DataError(
            f"data.{key.replace('_', '-')} = {getattr(settings, key)!r}: digits are used as they are, images "
            "of 8x8 pixels in ten classes; leave the setting out, or name another data.source"
        )


def _digits(max_samples: int, labelled: bool) -> Source:
    """Scikit-learn's 1797 grey images of 8x8 pixels from 0 to 16."""
    # Only this source needs this part of scikit-learn, which takes seconds to import.
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    count = max_samples or len(images)
    pixels = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 8, 8)[:count]
    content = in_memory(pixels, white=16)
    if not labelled:
        return Source(DIGITS, content, None, None)
    names = tuple(str(digit) for digit in range(10))
    return Source(DIGITS, content, torch.from_numpy(targets[:count]).to(torch.int64), Classes(names))


# --- what the columns hold -----------------------------------------------------------------------


def _content(
    rows: Rows,
    table: "Dataset",
    roles: Roles,
    settings: DataSettings,
    image_shape: tuple[int, ...] | None,
    where: str,
) -> tuple[Content, Tensor | None]:
    """Return what networks learn from, and the rows that could be read; None: all."""
    if isinstance(rows.content, Arrays):
        return rows.content, None
    if rows.content is not None or roles.image:
        conversion = Conversion(settings.channels, settings.image_size, settings.image_size)
        if image_shape is not None and len(image_shape) == 3:
            conversion = Conversion(*image_shape)
        source = rows.content or _encoded_images(table, roles.image, rows, where)
        images = prepare(source, conversion, len(table), settings.max_bad, where)
        return images, torch.from_numpy(images.kept)
    if roles.text:
        return Texts(tuple(_texts(table, roles.text, where))), None
    chosen = _features(table, roles, settings, where)
    if len(chosen) == 1 and is_array_column(table, chosen[0]):
        return arrays_of_column(table, chosen[0], where), None
    _require_numbers_or_categories(table, chosen, where)
    return Table(table.select_columns(chosen).to_pandas(), tuple(split_names(settings.categorical))), None


def _encoded_images(table: "Dataset", column: str, rows: Rows, where: str) -> EncodedImages:
    try:
        return EncodedImages(table, column, rows.folder, by_content=rows.own)
    except (TypeError, ValueError, NotImplementedError) as error:  # raised by pyarrow's cast
        raise DataError(f'data.image = "{column}": {where} holds no images there: {error}') from error


def _texts(table: "Dataset", column: str, where: str) -> list[str]:
    texts: list[str | None] = table[column][:]
    if None in texts:
        raise DataError(f"{where}, row {texts.index(None)}: column {column!r} holds no text")
    return [str(text) for text in texts]


def _features(table: "Dataset", roles: Roles, settings: DataSettings, where: str) -> list[str]:
    """Return the feature columns of a table: those named, otherwise all that have no other role."""
    others = {roles.label, roles.site, roles.group}
    left = [name for name in table.column_names if name not in others]
    chosen = split_names(settings.features) or [name for name in left if not _ROW_NUMBERS.fullmatch(name)]
    for name in chosen:
        if name not in left:
            raise DataError(
                f"data.features: {name!r} is not among the possible features of {where}: {', '.join(left)}"
            )
    if not chosen:
        raise DataError(f"{where}: has no column to learn from")
    return chosen


def _require_numbers_or_categories(table: "Dataset", columns: list[str], where: str) -> None:
    from datasets import ClassLabel, Value

    kinds = table.features  # computed at each access, which takes long for many columns
    for name in columns:
        kind = kinds[name]
        if not isinstance(kind, ClassLabel | Value) or kind.dtype in ("binary", "large_binary"):
            raise DataError(
                f"{where}: column {name!r} holds {kind}, neither numbers nor categories; if it holds images, "
                "name it in data.image; if it holds arrays, name it alone in data.features; otherwise name "
                "the columns to learn from in data.features"
            )


def _keys(table: "Dataset", column: str, where: str) -> Keys | None:
    if not column:
        return None
    cells = table[column][:]
    empty = [row for row, cell in enumerate(cells) if is_empty(cell)]
    if empty:
        raise DataError(f"{where}, row {empty[0]}: column {column!r} is empty")
    names, numbers = np.unique(np.array([as_text(cell) for cell in cells]), return_inverse=True)
    return Keys(torch.from_numpy(numbers), tuple(names.tolist()))
