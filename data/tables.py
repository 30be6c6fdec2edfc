"""Rows of a table as a network's input: numbers scaled, categories spread out, gaps filled and marked."""

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

_GAP = "(none)"
"""The category of a gap."""
_NUMBERS = "iuf"
"""numpy's kinds of integers and floats."""


@dataclass(frozen=True, eq=False)
class TableForm:
    """How a row becomes numbers, as found on other rows.

    A number is filled in by the median, less the mean, by the standard deviation; a category becomes as
    many numbers as it had values, and one that was not among them all zeros; each column with numbers is
    followed, at the end, by a mark of its gaps.
    """

    transformer: "ColumnTransformer"
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @property
    def shape(self) -> tuple[int]:
        """(features,)."""
        return (len(self.transformer.get_feature_names_out()),)

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON holds it."""
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
    """The columns of a table that are learnt from.

    Parameters
    ----------
    frame
        A row a sample, a column a feature; gaps are NaN or None.
    categorical
        Columns of numbers that are codes. Columns of text and of truth values are categories anyway.
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
        """Find medians, means, deviations and categories on some rows."""
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
            If a column is missing, or holds text in place of numbers.
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
            if kind.kind in _NUMBERS and name not in self.categorical
        ]
        return tuple(numeric), tuple(name for name in self.frame if name not in numeric)


def _columns(frame: "DataFrame", numeric: Sequence[str], categorical: Sequence[str]) -> "DataFrame":
    """Return the columns in their kinds: float64, and text with a name for gaps."""
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
        columns[name] = frame[name].map(as_text, na_action="ignore").astype(object).fillna(_GAP)
    return frame.assign(**columns)[[*numeric, *categorical]]
