"""Rows of a table as a network's input: numbers standardised, categories one-hot, missing values imputed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from data.classes import as_text
from data.inputs import TensorInputs
from protocol.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame
    from sklearn.compose import ColumnTransformer

_MISSING = "(none)"
"""The category of a missing value."""
_NUMERIC_KINDS = "iuf"
"""NumPy's codes for integers and floats."""


@dataclass(frozen=True, eq=False)
class TableForm:
    """How a row becomes numbers, as fitted on other rows.

    A missing number becomes the median; then each number becomes (number - mean) / standard deviation. A
    category is one-hot; one that did not occur when fitting is all zeros. For each column of numbers, an
    indicator of missing values is added at the end.
    """

    transformer: "ColumnTransformer"
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @property
    def shape(self) -> tuple[int]:
        """(features,)."""
        return (len(self.transformer.get_feature_names_out()),)

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON values."""
        facts: dict[str, Any] = {"shape": list(self.shape)}
        if self.numeric:
            steps = self.transformer.named_transformers_["numbers"]
            facts["medians"] = dict(zip(self.numeric, steps[0].statistics_.tolist(), strict=True))
            facts["means"] = dict(zip(self.numeric, steps[1].mean_.tolist(), strict=True))
            facts["deviations"] = dict(zip(self.numeric, steps[1].scale_.tolist(), strict=True))
        if self.categorical:
            found = self.transformer.named_transformers_["categories"].categories_
            facts["categories"] = dict(zip(self.categorical, map(list, found), strict=True))
        return facts


@dataclass(frozen=True, eq=False)
class Table:
    """The feature columns of a table.

    Parameters
    ----------
    frame
        A row per sample and a column per feature; missing values are NaN or None.
    categorical
        Columns of numbers that are codes. Columns of strings and booleans are always categories.
    """

    frame: "DataFrame"
    categorical: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def digest(self, rows: Tensor) -> str:
        """Fingerprint some rows and their order: 32 hexadecimal digits."""
        text: str = self.frame.iloc[rows.numpy()].to_csv(index=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def fit(self, rows: Tensor) -> TableForm:
        """Compute medians, means, deviations and categories of some rows."""
        # Only tables need scikit-learn, which takes a second to import.
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import MissingIndicator, SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        numeric, categorical = self._kinds()
        numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        transformer = ColumnTransformer(
            [
                ("numbers", numbers, list(numeric)),
                ("categories", categories, list(categorical)),
                ("gaps", MissingIndicator(features="all"), list(numeric)),
            ]
        )
        transformer.fit(_columns(self.frame.iloc[rows.numpy()], numeric, categorical))
        return TableForm(transformer, numeric, categorical)

    def inputs(self, rows: Tensor, form: TableForm) -> TensorInputs:
        """Return some rows as a network's inputs.

        Raises
        ------
        DataError
            If a column is missing, or holds text instead of numbers.
        """
        part = _columns(self.frame.iloc[rows.numpy()], form.numeric, form.categorical)
        values = np.asarray(form.transformer.transform(part), dtype=np.float32)
        return TensorInputs(torch.from_numpy(values))

    def _kinds(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        for name in self.categorical:
            if name not in self.frame:
                raise DataError(f'data.categorical = "{name}": the columns are {", ".join(self.frame)}')
        numeric = [
            name
            for name, kind in self.frame.dtypes.items()
            if kind.kind in _NUMERIC_KINDS and name not in self.categorical
        ]
        return tuple(numeric), tuple(name for name in self.frame if name not in numeric)


def _columns(frame: "DataFrame", numeric: Sequence[str], categorical: Sequence[str]) -> "DataFrame":
    """Return numeric columns as float64, and categorical ones as text with a name for missing values."""
    for name in [*numeric, *categorical]:
        if name not in frame:
            raise DataError(
                f"there is no column {name!r}, which the public pool has; there are {', '.join(frame)}"
            )
    columns = {}
    for name in numeric:
        try:
            columns[name] = frame[name].astype("float64")
        except (ValueError, TypeError) as error:
            raise DataError(f"column {name!r} must hold numbers, as in the public pool: {error}") from error
        if np.isinf(columns[name]).any():
            raise DataError(f"column {name!r} holds an infinite number")
    for name in categorical:
        columns[name] = frame[name].map(as_text, na_action="ignore").astype(object).fillna(_MISSING)
    return frame.assign(**columns)[[*numeric, *categorical]]
