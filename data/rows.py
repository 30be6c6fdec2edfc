"""Rows of images before they are decoded: encoded bytes, files, or arrays."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image


GREY = ("1", "L", "LA")
"""Pillow's modes of grey images."""
_HASHED_AT_ONCE = 100


class ImageRows(Protocol):
    """Images by row number."""

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever an image does."""

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, row: int) -> str:
        """Return the name of an image in messages."""

    def content(self, row: int) -> bytes:
        """Return the bytes of an image as they are stored; any exception means that it is unreadable."""

    def decode(self, content: bytes) -> "Image":
        """Decode the bytes of an image; any exception means that it is unreadable."""


class EncodedImages:
    """A column of encoded images (PNG, JPEG, …), in the data set itself or in files that it names.

    Parameters
    ----------
    dataset, column
        Where the images or the names of their files are.
    folder
        Folder that file names are relative to.
    by_content
        Whether the fingerprint is computed from all images, because the data set's own may stay the same when
        an image changes, or change when none does.
    """

    def __init__(self, dataset: "Dataset", column: str, folder: Path, by_content: bool = False) -> None:
        from datasets import Image

        self._column = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        self._name = column
        self._folder = folder
        stored = self._digest() if by_content else f"{dataset._fingerprint} {column}"
        self.fingerprint = f"{stored} {_state_of(self._files())}"

    def __len__(self) -> int:
        return len(self._column)

    def name(self, row: int) -> str:
        """Return the row's number, and the file's name if it is known."""
        cell = self._column[row][self._name]
        return f"row {row} ({cell['path']})" if cell is not None and cell["path"] else f"row {row}"

    def content(self, row: int) -> bytes:
        """Return the encoded bytes."""
        cell = self._column[row][self._name]
        if cell is None:
            raise ValueError("there is no image")
        content: bytes | None = cell["bytes"]
        return (self._folder / cell["path"]).read_bytes() if content is None else content

    def decode(self, content: bytes) -> "Image":
        """Decode them, and rotate the image as its EXIF orientation says."""
        return decoded(content)

    def _digest(self) -> str:
        """Return a digest of the images in the data set, and of the names of those in files."""
        digest = hashlib.blake2b(digest_size=16)
        for batch in self._column.with_format("arrow").iter(_HASHED_AT_ONCE):
            for cell in batch.column(self._name).to_pylist():
                _add(digest, (cell and cell["bytes"]) or repr(cell).encode())
        return digest.hexdigest()

    def _files(self) -> Iterator[Path]:
        """Yield the files of the images that are not stored in the data set itself."""
        for cells in self._column.data.column(self._name).chunks:
            outside = cells.field("path").filter(cells.field("bytes").is_null())
            yield from (self._folder / name for name in outside.drop_null().to_pylist())


def decoded(content: bytes) -> "Image":
    """Decode PNG, JPEG and the like, and rotate as the EXIF orientation says; raises whatever Pillow does."""
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # its message would only name an object in memory
        raise ValueError("not an image in a known format") from None
    image.load()
    turned = ExifTags.Base.Orientation in image.getexif()
    return ImageOps.exif_transpose(image) if turned else image


class ArrayImages:
    """Arrays of bytes, of shape (N, height, width) or (N, height, width, 3)."""

    def __init__(self, pixels: NDArray[np.uint8], fingerprint: str) -> None:
        self._pixels = pixels
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, row: int) -> str:
        """Return the row's number."""
        return f"row {row}"

    def content(self, row: int) -> bytes:
        """Return the pixels."""
        content: bytes = self._pixels[row].tobytes()
        return content

    def decode(self, content: bytes) -> "Image":
        """Make an image of the pixels."""
        from PIL import Image

        shape = self._pixels.shape[1:]
        return Image.fromarray(np.frombuffer(content, dtype=np.uint8).reshape(shape))


class HeldImages:
    """Decoded images in memory, each as `pixels_of` writes it."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for content in contents:
            _add(digest, content)
        self._contents = contents
        self.fingerprint = f"pixels {digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self._contents)

    def name(self, row: int) -> str:
        """Return the number of the row."""
        return f"row {row}"

    def content(self, row: int) -> bytes:
        """Return the pixels, after a header with their size."""
        return self._contents[row]

    def decode(self, content: bytes) -> "Image":
        """Reshape the pixels."""
        return decoded(content)


def pixels_of(image: "Image | NDArray[np.uint8]") -> bytes:
    """Write an image as PPM, in grey or RGB: the bytes follow from the pixels, whatever library decoded them.

    Parameters
    ----------
    image
        If it is an array, of shape (channels, height, width) with 1 or 3 channels.

    Raises
    ------
    DataError
        If its pixels do not have 8 bits.
    """
    if isinstance(image, np.ndarray):
        channels, height, width = image.shape
        pixels = image.transpose(1, 2, 0).tobytes()
    elif image.mode.startswith(("I", "F")):
        raise DataError(f"an image's pixels are {image.mode}; they must have 8 bits: scale them to 0..255")
    else:
        channels, height, width = (1 if image.mode in GREY else 3), image.height, image.width
        pixels = image.convert("L" if channels == 1 else "RGB").tobytes()
    return f"{'P5' if channels == 1 else 'P6'}\n{width} {height}\n255\n".encode() + pixels


def _add(digest: "hashlib.blake2b", content: bytes) -> None:
    """Add bytes after their length, so that no other division into parts gives the same digest."""
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)


def _state_of(files: Iterator[Path]) -> str:
    """Return a digest of the files' names, times and sizes."""
    state = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            found = os.stat(file)
            state.update(f"{file} {found.st_mtime_ns} {found.st_size}\n".encode())
        except OSError:
            state.update(f"{file} is not there\n".encode())
    return state.hexdigest()
