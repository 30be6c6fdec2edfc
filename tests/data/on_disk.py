"""Small data sets as users have them on disk."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (6, 5, 4), dtype=np.uint8)
"""Six images of 4x5 pixels."""
COLOUR = DRAW.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 0, 2, 1]
NO_IMAGE = b"no image"


def encoded(pixels, mode=None, kind="PNG", **options):
    """Encode pixels as a file of an image has them."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


PNGS = [encoded(pixels) for pixels in GREY]


def image_parquet(folder, images=PNGS, labels=LABELS, name="images.parquet", **columns):
    """Write images as Hugging Face's datasets do, bytes beside a path; None is a gap."""
    path = Path(folder) / name
    cells = [image if image is None else {"bytes": image, "path": None} for image in images]
    named = {} if labels is None else {"label": labels}
    pq.write_table(pa.table({"image": cells, **named, **columns}), path)
    return path


def parquet(folder, name="table.parquet", **columns):
    path = Path(folder) / name
    pq.write_table(pa.table(columns), path)
    return path


def csv(folder, text, name="table.csv"):
    path = Path(folder) / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def image_files(folder, pngs=PNGS):
    """Write a file an image, and return their names."""
    names = [f"{row}.png" for row in range(len(pngs))]
    for name, png in zip(names, pngs, strict=True):
        (Path(folder) / name).write_bytes(png)
    return names


def objects(folder, rows, name="instructions.json"):
    """Write objects as a list, or one a line."""
    path = Path(folder) / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith(".jsonl") else json.dumps(rows))
    return path


def image_folder(folder, classes=("cat", "dog"), images=2):
    """Write a folder for each class, and return the images in the order in which they are read."""
    pngs = []
    for number, name in enumerate(classes):
        place = Path(folder) / name
        place.mkdir(parents=True)
        for image in range(images):
            pngs.append(encoded(np.full((5, 4), 40 * number + image, dtype=np.uint8)))
            (place / f"{image}.png").write_bytes(pngs[-1])
    return pngs


def idx(path, values):
    """Write an array of bytes or of 32-bit integers as MNIST does."""
    kind = {np.dtype(np.uint8): 0x08, np.dtype(np.int32): 0x0C}[values.dtype]
    head = bytes([0, 0, kind, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + values.astype(values.dtype.newbyteorder(">")).tobytes())
