"""A fitted estimator as bytes and back, in skops' format: a zip of JSON and arrays, read without pickle.

skops builds only objects whose types it trusts itself (NumPy's, SciPy's, scikit-learn's estimators) or is
told to trust; `TRUSTED` lists what it is told. Its import takes seconds, as it imports all of scikit-learn.
"""

import re
from collections.abc import Collection
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""What fitted classifiers of scikit-learn are made of and skops does not trust by itself."""

_SCHEMA = "schema.json"
_ADDRESS = re.compile(r'(?<="__id__": )\d+|(?<=")\d+(?=\.np[yz]")')
"""Where skops writes an object's address in memory: as its number, and as the name of its array's file."""
_FAST = 1
"""The level of compression; higher ones take many times as long for a tenth of the size."""


def dump(fitted: Any) -> bytes:  # noqa: ANN401
    """Write an estimator; the same one always becomes the same bytes.

    Raises
    ------
    ValueError
        If it holds something that skops cannot write.
    """
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

    try:
        return _with_numbers_for_addresses(skops.io.dumps(fitted))
    except (UnsupportedTypeException, TypeError) as error:
        raise ValueError(
            f"cannot be written by skops ({error}); state dump and load in a models.network.Estimator"
        ) from error


def load(data: bytes, packages: Collection[str] = ()) -> Any:  # noqa: ANN401
    """Read what `dump` wrote.

    Parameters
    ----------
    data
        The bytes.
    packages
        Packages whose types are trusted beside `TRUSTED`.

    Raises
    ------
    ValueError
        If they are damaged, or hold a type that is not trusted, naming it.
    """
    import skops.io

    trusted = list(TRUSTED)
    try:
        if packages:
            found = skops.io.get_untrusted_types(data=data)
            trusted += [name for name in found if name.split(".")[0] in packages]
        return skops.io.loads(data, trusted=trusted)
    except Exception as error:  # of damaged bytes zipfile, json and skops raise many kinds
        raise ValueError(f"holds no estimator that can be read ({type(error).__name__}: {error})") from error


def _with_numbers_for_addresses(data: bytes) -> bytes:
    """Replace addresses by numbers in order of appearance, and drop the files' times."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], str(len(numbers) + 1))

    rewritten = BytesIO()
    with ZipFile(BytesIO(data)) as old, ZipFile(rewritten, "w", ZIP_DEFLATED, compresslevel=_FAST) as new:
        schema = _ADDRESS.sub(number, old.read(_SCHEMA).decode())
        for name in sorted(set(old.namelist()) - {_SCHEMA}, key=lambda name: int(_renamed(name, numbers)[0])):
            new.writestr(_entry(".".join(_renamed(name, numbers))), old.read(name))
        new.writestr(_entry(_SCHEMA), schema)
    return rewritten.getvalue()


def _renamed(name: str, numbers: dict[str, str]) -> tuple[str, str]:
    address, _, kind = name.partition(".")
    return numbers[address], kind


def _entry(name: str) -> ZipInfo:
    entry = ZipInfo(name)
    entry.compress_type = ZIP_DEFLATED
    return entry
