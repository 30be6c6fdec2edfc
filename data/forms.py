"""How the rows of a source become a network's input, found once on the public pool and used by all alike.

The pool is the only training data that every party holds, so what is found there (an image's mean and
deviation, a column's median, the categories, a vocabulary) is the same on all machines without anything being
sent, and nobody's private or test samples are looked at.
"""

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor

from data.images import ImageForm, Images
from data.inputs import Inputs
from data.sources import DIGITS, Source
from data.tables import Table, TableForm
from data.texts import TextForm, Texts
from protocol.errors import DataError
from protocol.settings import DataSettings, TextSettings

Form = ImageForm | TableForm | TextForm

_KINDS: Mapping[type, str] = {
    Images: "images",
    ImageForm: "images",
    Table: "a table",
    TableForm: "a table",
    Texts: "texts",
    TextForm: "texts",
}


def fit_form(
    pool: Source,
    rows: Tensor,
    settings: DataSettings,
    text: TextSettings = TextSettings(),  # noqa: B008 - it is frozen
    pretrained: str = "",
) -> Form:
    """Find how rows become inputs, on some rows of the public pool's source.

    Texts are cut into tokens as the checkpoint ``pretrained`` does, if there is one.

    Raises
    ------
    SettingsError
        If texts come with a checkpoint whose tokeniser cannot be used.
    """
    match pool.content:
        case Images():
            normalise = settings.normalisation == "public" and settings.source != DIGITS
            return pool.content.fit(rows, normalise)
        case Table():
            return pool.content.fit(rows)
        case Texts():
            return pool.content.fit(rows, text, pretrained)
        case _:
            assert_never(pool.content)


def digest_of(source: Source, rows: Tensor, form: Form) -> str:
    """Fingerprint some rows as they were stored, and of texts what they become: 32 hexadecimal digits."""
    if isinstance(source.content, Texts) and isinstance(form, TextForm):
        return source.content.token_digest(rows, form)
    return source.content.digest(rows)


def inputs_of(source: Source, rows: Tensor, form: Form) -> Inputs:
    """Return some rows of a source as a network's input.

    Raises
    ------
    DataError
        If the source is of another kind or shape than the public pool, or lacks a column of it.
    """
    match source.content, form:
        case Images() as images, ImageForm():
            if images.shape != form.shape:  # all but digits were converted
                raise DataError(
                    f"{source.name} has images of {images.shape}, the public pool has {form.shape}"
                )
            return images.inputs(rows, form)
        case Table() as table, TableForm():
            try:
                return table.inputs(rows, form)
            except DataError as error:
                raise DataError(f"{source.name}: {error}") from error
        case Texts() as texts, TextForm():
            return texts.inputs(rows, form)
    raise DataError(
        f"{source.name} holds {_KINDS[type(source.content)]}, the public pool {_KINDS[type(form)]}: both "
        "must be of one kind"
    )
