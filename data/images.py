"""Images converted to one size and one number of channels, once per machine, and mapped into memory.

A real node has a new process for each message, and a simulation has several that serve many clients. Only the
first of them decodes: it writes the pixels of all readable images into one file, which all others map.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.inputs import PixelInputs
from data.rows import GREY, ImageRows, decoded
from protocol.errors import DataError
from protocol.formats import FORMATS, FileKind

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("flwr")

_DECODED_AT_ONCE = 1000
_IMAGES_CHECKED = 100
"""So many of the first images decide whether all become grey or colour."""
_STATISTICS_BYTES = 2**26
_MOST_NAMED = 5
_HASH_BYTES = 16
_WHITE = 255
_SUPPORTED_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes that it can convert to both grey and colour."""


@dataclass(frozen=True)
class Conversion:
    """The size and channels that images are converted to."""

    channels: int = 0
    """1: grey, 3: colour, 0: colour if one of the first images is, since grey images lose nothing by it."""
    height: int = 0
    width: int = 0
    """Pixels; 0: the images' own size, which must then be the same for all."""


@dataclass(frozen=True)
class ImageForm:
    """Shape and normalisation statistics: pixels are scaled to 0..1, less the mean, over the deviation."""

    shape: tuple[int, int, int]
    """Channels, height and width."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """By channel, of pixels from 0 to 1."""

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON values."""
        return {"shape": list(self.shape), "mean": list(self.mean), "deviation": list(self.deviation)}


@dataclass(frozen=True, eq=False)
class Images:
    """The pixels of all readable images of a source.

    Parameters
    ----------
    pixels
        Uint8 tensor of shape (N, channels, height, width), perhaps mapped from a file.
    hashes
        Uint8 array of shape (N, 16): a hash of each image as it was stored, before it was converted, so
        that machines whose decoders differ in a last bit still agree that they hold the same images.
    kept
        Int64 array of shape (N,): the row of the source that each image comes from.
    white
        The pixel value that is scaled to 1.
    """

    pixels: Tensor
    hashes: np.ndarray[Any, np.dtype[np.uint8]]
    kept: np.ndarray[Any, np.dtype[np.int64]]
    white: int = _WHITE

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def digest(self, rows: Tensor) -> str:
        """Fingerprint some images and their order, as they were stored: 32 hexadecimal digits."""
        return hashlib.blake2b(self.hashes[rows.numpy()].tobytes(), digest_size=16).hexdigest()

    def fit(self, rows: Tensor, normalise: bool) -> ImageForm:
        """Compute the normalisation statistics of some images, of at most the first 64 MB of their pixels."""
        channels = self.shape[0]
        if not normalise:
            return ImageForm(self.shape, (0.0,) * channels, (1.0,) * channels)
        few = rows[: max(1, _STATISTICS_BYTES // self.pixels[:1].nbytes)]
        by_channel = self.pixels[few].transpose(0, 1).flatten(1)
        counts = torch.stack([torch.bincount(values, minlength=_WHITE + 1) for values in by_channel]).double()
        shares = counts / counts.sum(dim=1, keepdim=True)  # by channel and value: exact, whatever the order
        values = torch.arange(_WHITE + 1, dtype=torch.float64) / self.white
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(dim=1)
        deviation = variance.sqrt().where(variance > 0, 1.0)  # of a channel that never changes
        return ImageForm(self.shape, tuple(mean.tolist()), tuple(deviation.tolist()))

    def inputs(self, rows: Tensor, form: ImageForm) -> PixelInputs:
        """Return some images as a network's inputs."""
        if form.shape != self.shape:
            raise ValueError(f"images of {self.shape} are not of the form for {form.shape}")
        mean, deviation = (
            self.white * torch.tensor(values).reshape(-1, 1, 1) for values in (form.mean, form.deviation)
        )
        return PixelInputs(self.pixels, rows, mean, deviation)


def prepare(rows: ImageRows, conversion: Conversion, count: int, max_bad: float, setting: str) -> Images:
    """Decode and convert images, or map what was prepared before on this machine.

    Parameters
    ----------
    rows
        The images.
    conversion
        The size and channels to convert them to.
    count
        How many of them to use, from the first.
    max_bad
        Share of them that may be unreadable.
    setting
        The setting and its value, for messages.

    Raises
    ------
    DataError
        If images differ in size or channels and the conversion does not say which to use, or if too many
        are unreadable; the message names the first few of these.
    """
    from filelock import FileLock

    version = FORMATS[FileKind.IMAGES].version
    key = hashlib.blake2b(
        f"{version} {rows.fingerprint} {conversion} {count}".encode(), digest_size=16
    ).hexdigest()
    folder = cache_folder() / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _write(folder, rows, conversion, count, setting)
    except OSError as error:  # an unreadable image does not raise one here
        raise DataError(
            f"{setting}: the prepared images cannot be stored in {folder.parent} (XDG_CACHE_HOME names "
            f"another folder): {error}"
        ) from error
    facts = json.loads((folder / "facts.json").read_text())
    _report_unreadable(facts["unreadable"], count, max_bad, setting)
    return _mapped(folder, facts["shape"])


def read_image(file: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read one file as `prepare` would.

    Parameters
    ----------
    file
        An encoded image: PNG, JPEG or another format that Pillow reads.
    shape
        Channels, height and width to convert it to.

    Returns
    -------
    Tensor
        Uint8 of that shape.

    Raises
    ------
    DataError
        If it cannot be read as an image with 8 bits per channel.
    """
    try:
        image = decoded(file.read_bytes())
        _require_eight_bits(image)
    except Exception as error:  # Pillow's decoders raise many kinds of errors on invalid files
        raise DataError(f"{file}: cannot be read as an image: {error}") from error
    return torch.from_numpy(_as_pixels(image, shape).copy())


def cache_folder() -> Path:
    """Return the folder of prepared images, in the user's cache folder; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motley"


def in_memory(pixels: Tensor, white: int) -> Images:
    """Wrap images that are given as pixels, uint8 of shape (N, channels, height, width)."""
    hashes = [hashlib.blake2b(image.numpy().tobytes(), digest_size=_HASH_BYTES).digest() for image in pixels]
    table = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, _HASH_BYTES)
    return Images(pixels, table, np.arange(len(pixels)), white)


def _report_unreadable(unreadable: list[tuple[str, str]], count: int, max_bad: float, setting: str) -> None:
    if not unreadable:
        return
    text = f"{setting}: {len(unreadable)} of {count} images cannot be read: {_named(unreadable)}"
    if len(unreadable) > max_bad * count or len(unreadable) == count:
        raise DataError(f"{text}; data.max-bad = {max_bad:g} is the share allowed")
    log.warning("%s; they are left out", text)


def _mapped(folder: Path, shape: list[int]) -> Images:
    hashes, kept = np.load(folder / "hashes.npy"), np.load(folder / "kept.npy")
    # Copy-on-write, because torch accepts only writable arrays; nothing ever writes to it.
    pixels = np.memmap(folder / "pixels", dtype=np.uint8, mode="c", shape=(len(kept), *shape))
    return Images(torch.from_numpy(pixels), hashes, kept)


def _write(folder: Path, rows: ImageRows, requested: Conversion, count: int, setting: str) -> None:
    """Write the prepared images into a folder that appears only when it is complete."""
    resolved = _resolved(rows, requested, count, setting)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process: this one holds the lock
    unfinished.mkdir(mode=0o700)
    hashes, kept, unreadable = [], [], []
    try:
        with (unfinished / "pixels").open("wb") as file:
            for row, prepared in enumerate(_converted(rows, requested, resolved, count)):
                if isinstance(prepared, _Unreadable):
                    unreadable.append((rows.name(row), prepared.reason))
                elif isinstance(prepared, DataError):
                    raise DataError(f"{setting}, {rows.name(row)}: {prepared}")
                else:
                    hashes.append(prepared.hash)
                    kept.append(row)
                    file.write(prepared.pixels)
        table = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, _HASH_BYTES)
        np.save(unfinished / "hashes.npy", table)
        np.save(unfinished / "kept.npy", np.array(kept, dtype=np.int64))
        shape = [resolved.channels, resolved.height, resolved.width]
        (unfinished / "facts.json").write_text(json.dumps({"shape": shape, "unreadable": unreadable}))
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


@dataclass(frozen=True)
class _Prepared:
    pixels: bytes
    hash: bytes


@dataclass(frozen=True)
class _Unreadable:
    reason: str


def _resolved(rows: ImageRows, requested: Conversion, count: int, setting: str) -> Conversion:
    """Fill in the size and channels that were not requested, from the first images that can be read."""
    colour, size = False, None
    unreadable = []
    for row in range(min(count, _IMAGES_CHECKED)):
        read = _read(rows, row)
        if isinstance(read, _Unreadable):
            unreadable.append((rows.name(row), read.reason))
        else:
            _, image = read
            colour, size = colour or _is_colour(image), size or image.size
    if size is None:
        raise DataError(
            f"{setting}: none of the first {len(unreadable)} images can be read: {_named(unreadable)}"
        )
    width, height = size
    return Conversion(
        requested.channels or (3 if colour else 1), requested.height or height, requested.width or width
    )


def _converted(
    rows: ImageRows, requested: Conversion, resolved: Conversion, count: int
) -> Iterator["_Prepared | _Unreadable | DataError"]:
    prepare_one = functools.partial(_prepare_one, rows, requested, resolved)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, _DECODED_AT_ONCE):
            yield from pool.map(prepare_one, range(start, min(start + _DECODED_AT_ONCE, count)))


def _prepare_one(
    rows: ImageRows, requested: Conversion, resolved: Conversion, row: int
) -> "_Prepared | _Unreadable | DataError":
    read = _read(rows, row)
    if isinstance(read, _Unreadable):
        return read
    content, image = read
    if not requested.width and image.size != (resolved.width, resolved.height):
        return DataError(
            f"an image of {image.width}x{image.height} pixels, the first has {resolved.width}x"
            f"{resolved.height}: set data.image-size, to which all are resized"
        )
    if not requested.channels and resolved.channels == 1 and _is_colour(image):
        return DataError(
            "an image in colour, the first are grey: set data.channels = 1 or 3, to which all are converted"
        )
    pixels = _as_pixels(image, (resolved.channels, resolved.height, resolved.width))
    return _Prepared(pixels.tobytes(), hashlib.blake2b(content, digest_size=_HASH_BYTES).digest())


def _read(rows: ImageRows, row: int) -> "tuple[bytes, Image] | _Unreadable":
    try:
        content = rows.content(row)
        image = rows.decode(content)
        _require_eight_bits(image)
    except Exception as error:  # Pillow's decoders raise many kinds of errors on invalid files
        return _Unreadable(f"{type(error).__name__}: {error}")
    return content, image


def _require_eight_bits(image: "Image") -> None:
    if image.mode.startswith(("I", "F")):  # Pillow would cut these off at 255
        raise ValueError(
            f"its pixels are {image.mode}, they must have 8 bits: scale them to 0..255, because the "
            "file does not say which value is white"
        )
    if image.mode not in _SUPPORTED_MODES:
        raise ValueError(f"its pixels are {image.mode}, they must be one of {', '.join(_SUPPORTED_MODES)}")


def _as_pixels(image: "Image", shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Convert an image to channels, height and width."""
    channels, height, width = shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height))
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _named(unreadable: Sequence[tuple[str, str]]) -> str:
    more = f" and {len(unreadable) - _MOST_NAMED} more" if len(unreadable) > _MOST_NAMED else ""
    return "; ".join(f"{name}: {reason}" for name, reason in unreadable[:_MOST_NAMED]) + more


def _is_colour(image: "Image") -> bool:
    return image.mode not in GREY
