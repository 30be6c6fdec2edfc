"""How the rows of a source become a network's input, fitted once on the public pool and the same for all.

The pool is the only training data that every party holds. What is fitted on it (normalisation statistics of
images and columns, medians, categories, a vocabulary) is therefore the same on all machines although nothing
is sent, and no private or test sample is read for it.
"""

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor

from data.arrays import ArrayForm, Arrays
from data.images import ImageForm, Images
from data.inputs import Inputs
from data.sources import DIGITS, Source
from data.tables import Table, TableForm
from data.texts import TextForm, Texts
from protocol.errors import DataError
from protocol.settings import DataSettings, TextSettings

Form = ImageForm | TableForm | TextForm | ArrayForm

_KINDS: Mapping[type, str] = {
    Images: "images",
    ImageForm: "images",
    Table: "a table",
    TableForm: "a table",
    Texts: "texts",
    TextForm: "texts",
    Arrays: "arrays",
    ArrayForm: "arrays",
}


def fit_form(
    pool: Source,
    rows: Tensor,
    settings: DataSettings,
    text: TextSettings = TextSettings(),  # noqa: B008 - it is frozen
    checkpoint: str = "",
) -> Form:
    """Fit on the public pool how rows become inputs.

    Parameters
    ----------
    pool
        The source that holds the public pool.
    rows
        Int64 tensor of shape (N,): the rows of ``pool`` that are the public pool.
    settings
        Whether images are normalised.
    text
        The length of texts, and the size of a vocabulary.
    checkpoint
        What names the checkpoint whose tokeniser is used for texts, see ``RunSettings.checkpoint``; empty: a
        vocabulary is built from the pool.

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
            return pool.content.fit(rows, text, checkpoint)
        case Arrays():
            return pool.content.fit()
        case _:
            assert_never(pool.content)


def digest_of(source: Source, rows: Tensor, form: Form) -> str:
    """Fingerprint rows as they were stored, and texts also by their tokens.

    Parameters
    ----------
    source
        The source.
    rows
        Int64 tensor of shape (N,): rows of the source, in order.
    form
        How rows become inputs; only used for texts.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    if isinstance(source.content, Texts) and isinstance(form, TextForm):
        return source.content.token_digest(rows, form)
    return source.content.digest(rows)


def inputs_of(source: Source, rows: Tensor, form: Form) -> Inputs:
    """Return some rows of a source as a network's input.

    Parameters
    ----------
    source
        The source.
    rows
        Int64 tensor of shape (N,): rows of the source, in order.
    form
        How rows become inputs, as fitted on the public pool.

    Raises
    ------
    DataError
        If the source is of another kind or shape than the public pool, or lacks a column of it.
    """
    match source.content, form:
        case Images() as images, ImageForm():
            _require_shape(source, images.shape, form.shape)  # all but digits were converted
            return images.inputs(rows, form)
        case Table() as table, TableForm():
            try:
                return table.inputs(rows, form)
            except DataError as error:
                raise DataError(f"{source.name}: {error}") from error
        case Arrays() as arrays, ArrayForm():
            _require_shape(source, arrays.shape, form.shape)
            return arrays.inputs(rows)
        case Texts() as texts, TextForm():
            return texts.inputs(rows, form)
    raise DataError(
        f"{source.name} holds {_KINDS[type(source.content)]}, the public pool {_KINDS[type(form)]}: both "
        "must be of the same kind"
    )


def _require_shape(source: Source, shape: tuple[int, ...], pool: tuple[int, ...]) -> None:
    if shape != pool:
        kind = _KINDS[type(source.content)]
        raise DataError(f"{source.name} has {kind} of {shape}, the public pool has {pool}")
