"""Reads the rows of a data set from disk or the hub, by Hugging Face's ``datasets`` and by torchvision."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.arrays import Arrays
from data.objects import JSON_LINES_SUFFIX, JSON_SUFFIX, read_objects
from data.rows import ArrayImages, ImageRows
from protocol.errors import DataError
from protocol.values import split_source

if TYPE_CHECKING:
    from datasets import Dataset

_TRAIN = "train"
_VALIDATION_NAMES = ("dev", "val", "valid")
"""File names that ``datasets`` reads as the split ``validation``."""
_PLACEHOLDER = "/path/to/"
_CSV = (".csv", ".csv.gz")
_IN_ONE_CHUNK: Mapping[str, Any] = {"chunksize": 2**31}
"""Option to read a csv file at once; otherwise its first 10,000 rows decide the type of each column."""
_NO_ROWS_ERRORS = ("corresponds to no data", "BatchSize must be greater than 0")
"""Parts of the errors that ``datasets`` and pyarrow raise for a table without rows."""
_HUB_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set.

    Parameters
    ----------
    table
        Its columns, mapped into memory, so that only what is read takes memory.
    content
        Its images or arrays, if they are not a column of the table.
    folder
        Folder that file names in the table are relative to.
    own
        Whether the rows come from user code, where the table's fingerprint does not identify its content.
    """

    table: "Dataset"
    content: ImageRows | Arrays | None = None
    folder: Path = Path()
    own: bool = False


def read_rows(source: str, where: str) -> Rows:
    """Open a data set.

    Parameters
    ----------
    source
        A path or a hub id, perhaps with ``#split``: a parquet, csv(.gz) or json(l) file; a folder that
        ``datasets`` saved, that torchvision keeps a data set in, or that holds images (a folder a class) or
        such files.
    where
        The setting and its value, for messages.

    Raises
    ------
    DataError
        If the data set does not exist or cannot be read.
    """
    place, split = split_source(source)
    path = Path(place).expanduser()
    if not path.is_absolute():
        return Rows(one_split(_from_hub(place, where), split, where))
    if place.startswith(_PLACEHOLDER):
        raise DataError(
            f"{where}: this is a recipe's placeholder; replace it by the path of your copy "
            "(README, “Getting the data sets”)"
        )
    if not path.exists():
        raise DataError(f"{where}: this path does not exist")
    if path.is_dir() and (found := _torchvision_sets(path)):
        return _from_torchvision(found, split or _TRAIN, where)
    folder = path if path.is_dir() else path.parent
    return Rows(one_split(_from_disk(path, where), split, where), folder=folder)


def _from_disk(path: Path, where: str) -> Any:  # noqa: ANN401
    import datasets

    datasets.disable_progress_bars()
    opener: Callable[[], Any]
    if path.suffix in (JSON_SUFFIX, JSON_LINES_SUFFIX) and path.is_file():
        return read_objects(path, where)
    if path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
        opener = partial(datasets.load_from_disk, str(path))
    elif path.is_dir():
        opener = partial(datasets.load_dataset, str(path), **(_IN_ONE_CHUNK if _is_all_csv(path) else {}))
    elif path.name.endswith(_CSV):
        opener = partial(datasets.load_dataset, "csv", data_files=str(path), **_IN_ONE_CHUNK)
    elif path.suffix == ".parquet":
        opener = partial(datasets.load_dataset, "parquet", data_files=str(path))
    else:
        kinds = ", ".join((".parquet", *_CSV, JSON_SUFFIX))
        raise DataError(f"{where}: must be a folder, or a file that ends in {kinds} or {JSON_LINES_SUFFIX}")
    try:
        with _offline():
            return opener()
    except Exception as error:  # readers raise many kinds of errors on invalid files
        reason = _reason(error)
        if any(hint in reason for hint in _NO_ROWS_ERRORS):
            raise DataError(f"{where}: holds no rows") from error
        raise DataError(f"{where}: cannot be read: {reason}") from error


def _is_all_csv(folder: Path) -> bool:
    """Tell whether a folder holds csv files only."""
    visible = [path.name for path in folder.iterdir() if not path.name.startswith((".", "README"))]
    return bool(visible) and all(name.endswith(_CSV) for name in visible)


def _from_hub(place: str, where: str) -> Any:  # noqa: ANN401
    import datasets

    datasets.disable_progress_bars()
    name, _, configuration = place.partition(":")
    unreachable = _why_hub_is_unreachable()
    try:
        with _offline() if unreachable else nullcontext():
            return datasets.load_dataset(name, configuration or None)
    except Exception as error:  # from the network, the hub or the data set's own files
        raise DataError(
            f"{where}: not a path (it does not begin with / or ~), and cannot be loaded as a data set of the "
            f"Hugging Face hub: {unreachable or _reason(error)}. Without a network, save it elsewhere with "
            "datasets' save_to_disk and give the folder's path"
        ) from error


def _why_hub_is_unreachable() -> str:
    """Ask the hub once; return why it does not answer, or empty. Its own client retries for half a minute."""
    from datasets.config import HF_ENDPOINT
    from huggingface_hub import get_session

    try:
        get_session().head(HF_ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # which HTTP library raises depends on the client's version
        return f"{HF_ENDPOINT} does not answer ({_reason(error)}), and datasets' cache holds no copy"
    return ""


@contextmanager
def _offline() -> Iterator[None]:
    """Keep datasets off the network: it reports usage even of files on disk; hub ids come from its cache."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def one_split(found: Any, split: str, where: str) -> "Dataset":  # noqa: ANN401
    """Return one split of what was loaded: the one asked for, otherwise ``train``, otherwise the only one.

    Parameters
    ----------
    found
        What ``datasets`` loaded: a data set, or several by their splits' names.
    split
        Name of the split; empty if none is asked for.
    where
        The source, for error messages.

    Raises
    ------
    DataError
        If there is no such split, several and none is asked for, or it is empty.
    """
    from datasets import Dataset

    if isinstance(found, Dataset):
        if split:
            raise DataError(f"{where}: has no splits, so none can be named after #")
        dataset = found
    else:
        wanted = split or (_TRAIN if _TRAIN in found else next(iter(found)) if len(found) == 1 else "")
        if wanted in _VALIDATION_NAMES and wanted not in found:
            wanted = "validation"
        if wanted not in found:
            splits = ", ".join(found)
            raise DataError(
                f"{where}: name a split after #, for example #{next(iter(found))}; there are {splits}"
            )
        dataset = found[wanted]
    if not len(dataset):
        raise DataError(f"{where}: holds no rows")
    return dataset


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error  # datasets wraps the cause in an error of its own
    return f"{type(cause).__name__}: {cause}".strip()


# --- torchvision ---------------------------------------------------------------------------------

_TORCHVISION_MARKERS = {
    "cifar-10-batches-py": "CIFAR10",
    "cifar-100-python": "CIFAR100",
    "MNIST/raw": "MNIST",
    "FashionMNIST/raw": "FashionMNIST",
    "KMNIST/raw": "KMNIST",
    "QMNIST/raw": "QMNIST",
    "train_32x32.mat": "SVHN",
}
"""A file or folder by which each data set is recognised in the folder it was downloaded to."""


@dataclass(frozen=True)
class _TorchvisionSet:
    name: str
    root: Path


def _torchvision_sets(path: Path) -> list[_TorchvisionSet]:
    inside = [
        _TorchvisionSet(name, path)
        for marker, name in _TORCHVISION_MARKERS.items()
        if (path / marker).exists()
    ]
    itself = [
        _TorchvisionSet(name, path.parent)
        for marker, name in _TORCHVISION_MARKERS.items()
        if marker.split("/")[0] == path.name and (path.parent / marker).exists()
    ]
    return inside or itself


def _from_torchvision(found: list[_TorchvisionSet], split: str, where: str) -> Rows:
    import torchvision.datasets
    from datasets import ClassLabel, Dataset, Features

    if len(found) > 1:
        raise DataError(
            f"{where}: holds several data sets, {', '.join(one.name for one in found)}: give the path of one"
        )
    if split not in ("train", "test"):
        raise DataError(f'{where}: split = "{split}": allowed are train, test')
    name, root = found[0].name, str(found[0].root)
    kind = getattr(torchvision.datasets, name)
    try:
        whole = kind(root, split=split) if name == "SVHN" else kind(root, train=split == "train")
    except Exception as error:  # files that are missing, truncated or have another checksum
        raise DataError(f"{where}: torchvision cannot read {name} there: {_reason(error)}") from error
    targets = np.asarray(whole.labels if name == "SVHN" else whole.targets, dtype=np.int64)
    targets = targets[:, 0] if targets.ndim == 2 else targets  # QMNIST's have more columns
    names = getattr(whole, "classes", None) or [str(digit) for digit in range(10)]
    features = Features({"label": ClassLabel(names=[one.replace("|", "/") for one in names])})
    pixels = np.asarray(whole.data, dtype=np.uint8)
    if name == "SVHN":
        pixels = pixels.transpose(0, 2, 3, 1)
    pixels = np.ascontiguousarray(pixels)
    fingerprint = f"{name} {pixels.shape} {hashlib.blake2b(pixels.data, digest_size=16).hexdigest()}"
    return Rows(Dataset.from_dict({"label": targets}, features=features), ArrayImages(pixels, fingerprint))
