"""Images and their classes from a parquet file."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from data.samples import Samples
from protocol.errors import DataError

_IMAGE, _LABEL = "image", "label"


def read_images(path: Path, max_samples: int = 0) -> Samples:
    """Read a parquet file with the columns ``image`` and ``label``.

    Parameters
    ----------
    path
        The file. ``image`` holds encoded images of one size (as a Hugging Face ``Image`` feature does:
        ``bytes`` beside ``path``), ``label`` classes from 0.
    max_samples
        How many rows to read, from the first; 0 reads all.

    Returns
    -------
    Samples
        Pixels from 0 to 1.

    Raises
    ------
    DataError
        Naming the file, and the column or the row that cannot be used.
    """
    try:
        table = pyarrow.parquet.read_table(path, columns=[_IMAGE, _LABEL])
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a parquet file with the columns image and label: {error}") from error
    table = table.slice(0, max_samples or None)
    if not len(table):
        raise DataError(f"{path}: holds no samples")
    images = [_decode(path, row, cell) for row, cell in enumerate(table[_IMAGE].to_pylist())]
    for row, image in enumerate(images):
        if image.shape != images[0].shape:
            own, first = tuple(image.shape), tuple(images[0].shape)
            raise DataError(
                f"{path}, row {row}: image of {own} (channels, height, width), the first is of {first}"
            )
    return Samples(torch.stack(images), _targets(path, table[_LABEL]))


def _decode(path: Path, row: int, cell: Mapping[str, bytes]) -> Tensor:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut these off at 255
                raise ValueError(f"its pixels are {image.mode}, they must have 8 bits")
            pixels = np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # of foreign bytes Pillow's decoders raise all sorts
        raise DataError(f"{path}, row {row}: not an image: {error}") from error
    channels_last = torch.from_numpy(pixels).to(torch.float32).div_(255)
    return channels_last[None] if channels_last.ndim == 2 else channels_last.permute(2, 0, 1).contiguous()


def _targets(path: Path, column: pyarrow.ChunkedArray) -> Tensor:
    if not pyarrow.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{path}: the column label must hold classes from 0, without gaps")
    targets = torch.from_numpy(column.to_numpy().astype(np.int64))
    if int(targets.min()) < 0:
        raise DataError(f"{path}, row {int(targets.argmin())}: label {int(targets.min())} is below 0")
    return targets
